// Answers the lines of the conformance kit, but spec: `go build main.go`, then
// `python -m ddpm_export.conformance --families words,normals,noise,times,levels,trajectory -- ./main`.
package main

import (
	"bufio"
	"fmt"
	"math"
	"math/bits"
	"os"
	"strconv"
	"strings"
)

// Philox4x32-10 (Salmon et al. 2011).
func philox(counter [4]uint32, key [2]uint32) [4]uint32 {
	for range 10 {
		high0, low0 := bits.Mul32(0xD2511F53, counter[0])
		high1, low1 := bits.Mul32(0xCD9E8D57, counter[2])
		counter = [4]uint32{high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0}
		key[0] += 0x9E3779B9
		key[1] += 0xBB67AE85
	}
	return counter
}

// The inverse normal distribution for 2^-33 <= p <= 1/2: the two rational functions of Wichura 1988, AS 241.
var centre = [2][8]float64{
	{3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
		4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3},
	{1, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
		2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3},
}
var tail = [2][8]float64{
	{1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
		1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4},
	{1, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
		1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9},
}

func ratio(table [2][8]float64, r float64) float64 {
	over, under := 0.0, 0.0
	for k := 7; k >= 0; k-- {
		over, under = over*r+table[0][k], under*r+table[1][k]
	}
	return over / under
}

func inverseNormal(p float64) float64 {
	if q := p - 0.5; math.Abs(q) <= 0.425 {
		return q * ratio(centre, 0.180625-q*q)
	}
	return -ratio(tail, math.Sqrt(-math.Log(p))-1.6)
}

// The table of docs/format.md, section 3.
var table [32][257]int64

func init() {
	for e := range table {
		for j := range table[e] {
			p := math.Ldexp(float64(256+j), -10-e)
			if e == 31 {
				p = math.Ldexp(1, -33)
			}
			table[e][j] = int64(math.RoundToEven(-inverseNormal(p) * (1 << 20)))
		}
	}
}

func normal(word uint32) float32 {
	m := word & 0x7FFFFFFF
	e := 31 - bits.Len32(m)
	f := int64(m) << min(e, 30)
	row, j := &table[e], f>>22&0xFF
	z := row[j] - (row[j]-row[j+1])*(f&0x3FFFFF)>>22
	if word>>31 == 1 {
		z = -z
	}
	return float32(z) / (1 << 20)
}

func noise(seed uint64, image, draw, domain uint32, count int) []float32 {
	made := make([]float32, 0, count+3)
	for block := uint32(0); len(made) < count; block++ {
		for _, word := range philox([4]uint32{block, draw, image, domain}, [2]uint32{uint32(seed), uint32(seed >> 32)}) {
			made = append(made, normal(word))
		}
	}
	return made[:count]
}

func times(all, steps int) []int {
	made := make([]int, steps)
	for i := range made {
		made[i] = all*(steps-i)/steps - 1
	}
	return made
}

// Every state of ddim(eta) over the best denoiser for pixels that are each N(mean, std^2).
func trajectory(seed uint64, image uint32, count, steps int, eta, clip, mean, std float64, alphas []float64) []float32 {
	var states []float32
	grid, x := times(len(alphas), steps), noise(seed, image, 0, 0, count)
	for i, t := range grid {
		a, aPrev := alphas[t], 1.0
		if i+1 < steps {
			aPrev = alphas[grid[i+1]]
		}
		c := eta * math.Sqrt((1-aPrev)/(1-a)) * math.Sqrt(1-a/aPrev)
		slope, shift := float32(math.Sqrt(1-a)/(a*std*std+1-a)), float32(math.Sqrt(a)*mean)
		rootA, root1A := float32(math.Sqrt(a)), float32(math.Sqrt(1-a))
		toX0, toEps := float32(math.Sqrt(aPrev)), float32(math.Sqrt(max(0, 1-aPrev-c*c)))
		for k, z := range noise(seed, image, uint32(i+1), 0, count) {
			eps := slope * (x[k] - shift)
			x0 := (x[k] - root1A*eps) / rootA
			if !math.IsInf(clip, 1) {
				x0 = min(max(x0, float32(-clip)), float32(clip))
				eps = (x[k] - rootA*x0) / root1A
			}
			x[k] = toX0*x0 + toEps*eps + float32(c)*z
		}
		states = append(states, x...)
	}
	return states
}

func answer(words []string) string {
	n, u := make([]float64, len(words)), make([]uint64, len(words))
	for k, word := range words[1:] {
		n[k+1], _ = strconv.ParseFloat(word, 64)
		u[k+1], _ = strconv.ParseUint(word, 10, 64)
	}
	var made []any
	switch words[0] {
	case "words":
		counter := [4]uint32{uint32(u[1]), uint32(u[2]), uint32(u[3]), uint32(u[4])}
		for _, word := range philox(counter, [2]uint32{uint32(u[5]), uint32(u[6])}) {
			made = append(made, word)
		}
	case "normals":
		made = append(made, math.Float32bits(normal(uint32(u[1]))))
	case "noise":
		for _, value := range noise(u[1], uint32(u[2]), uint32(u[3]), uint32(u[4]), int(u[5])) {
			made = append(made, math.Float32bits(value))
		}
	case "times":
		for _, t := range times(int(u[1]), int(u[2])) {
			made = append(made, t)
		}
	case "levels":
		level := 127.5*math.Float32frombits(uint32(u[1])) + 127.5
		made = append(made, int(min(max(level, 0), 255)+0.5))
	case "trajectory":
		if words[6] == "none" {
			n[6] = math.Inf(1)
		}
		for _, x := range trajectory(u[1], uint32(u[2]), int(u[3]), int(u[4]), n[5], n[6], n[7], n[8], n[9:]) {
			made = append(made, x)
		}
	default:
		return "skip"
	}
	return strings.Trim(fmt.Sprint(made), "[]")
}

func main() {
	in, out := bufio.NewScanner(os.Stdin), bufio.NewWriter(os.Stdout)
	in.Buffer(nil, 1<<24) // a line of spec is long
	defer out.Flush()
	for in.Scan() {
		fmt.Fprintln(out, answer(strings.Fields(in.Text())))
	}
}

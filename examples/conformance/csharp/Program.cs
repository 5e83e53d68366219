// Answers the lines of the conformance kit, but spec: `mcs Program.cs`, then
// `python -m ddpm_export.conformance --families words,normals,noise,times,levels,trajectory -- mono Program.exe`.
using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;

static class Program
{
    // Philox4x32-10 (Salmon et al. 2011).
    static uint[] Philox(uint[] counter, uint k0, uint k1)
    {
        uint a = counter[0], b = counter[1], c = counter[2], d = counter[3];
        for (int round = 0; round < 10; round++)
        {
            ulong p = 0xD2511F53UL * a, q = 0xCD9E8D57UL * c;
            a = (uint)(q >> 32) ^ b ^ k0;
            b = (uint)q;
            c = (uint)(p >> 32) ^ d ^ k1;
            d = (uint)p;
            k0 += 0x9E3779B9;
            k1 += 0xBB67AE85;
        }
        return new[] { a, b, c, d };
    }

    // The inverse normal distribution for 2^-33 <= p <= 1/2: the two rational functions of Wichura 1988, AS 241.
    static readonly double[] Centre = {
        3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
        4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3,
        1, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
        2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3,
    };
    static readonly double[] Tail = {
        1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
        1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4,
        1, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
        1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9,
    };

    static double Ratio(double[] numbers, double r)
    {
        double over = 0, under = 0;
        for (int k = 7; k >= 0; k--)
        {
            over = over * r + numbers[k];
            under = under * r + numbers[8 + k];
        }
        return over / under;
    }

    static double InverseNormal(double p)
    {
        double q = p - 0.5;
        return Math.Abs(q) <= 0.425 ? q * Ratio(Centre, 0.180625 - q * q) : -Ratio(Tail, Math.Sqrt(-Math.Log(p)) - 1.6);
    }

    // The table of docs/format.md, section 3: 32 rows of 257.
    static readonly long[] Table = (
        from e in Enumerable.Range(0, 32)
        from j in Enumerable.Range(0, 257)
        let p = e == 31 ? Math.Pow(2, -33) : (256 + j) * Math.Pow(2, -10 - e)
        select (long)Math.Round(-InverseNormal(p) * (1 << 20), MidpointRounding.ToEven)).ToArray();

    static float Normal(uint word)
    {
        uint m = word & 0x7FFFFFFF;
        int e = 31;
        while (m >> (31 - e) != 0) e--;
        long f = (long)m << Math.Min(e, 30);
        int cell = e * 257 + (int)((f >> 22) & 0xFF);
        long z = Table[cell] - (((Table[cell] - Table[cell + 1]) * (f & 0x3FFFFF)) >> 22);
        return (word >> 31 == 1 ? -z : z) / 1048576f;
    }

    static float[] Noise(ulong seed, uint image, uint draw, uint domain, int count)
    {
        var blocks = Enumerable.Range(0, (count + 3) / 4);
        var words = blocks.SelectMany(k => Philox(new[] { (uint)k, draw, image, domain }, (uint)seed, (uint)(seed >> 32)));
        return words.Take(count).Select(Normal).ToArray();
    }

    static int[] Times(int all, int steps)
    {
        return Enumerable.Range(0, steps).Select(i => (int)((long)all * (steps - i) / steps - 1)).ToArray();
    }

    // Every state of ddim(eta) over the best denoiser for pixels that are each N(mean, std^2).
    static IEnumerable<float> Trajectory(string[] words)
    {
        ulong seed = ulong.Parse(words[1]);
        uint image = uint.Parse(words[2]);
        int count = int.Parse(words[3]), steps = int.Parse(words[4]);
        double eta = Number(words[5]), mean = Number(words[7]), std = Number(words[8]);
        float clip = words[6] == "none" ? float.PositiveInfinity : (float)Number(words[6]);
        double[] alphas = words.Skip(9).Select(Number).ToArray();
        int[] grid = Times(alphas.Length, steps);
        float[] x = Noise(seed, image, 0, 0, count);
        for (int i = 0; i < steps; i++)
        {
            double a = alphas[grid[i]], aPrev = i + 1 < steps ? alphas[grid[i + 1]] : 1;
            double c = eta * Math.Sqrt((1 - aPrev) / (1 - a)) * Math.Sqrt(1 - a / aPrev);
            float slope = (float)(Math.Sqrt(1 - a) / (a * std * std + 1 - a)), shift = (float)(Math.Sqrt(a) * mean);
            float rootA = (float)Math.Sqrt(a), root1A = (float)Math.Sqrt(1 - a);
            float toX0 = (float)Math.Sqrt(aPrev), toEps = (float)Math.Sqrt(Math.Max(0, 1 - aPrev - c * c));
            float[] z = Noise(seed, image, (uint)i + 1, 0, count);
            for (int k = 0; k < count; k++)
            {
                float eps = slope * (x[k] - shift), x0 = (x[k] - root1A * eps) / rootA;
                if (!float.IsInfinity(clip))
                {
                    x0 = Math.Min(Math.Max(x0, -clip), clip);
                    eps = (x[k] - rootA * x0) / root1A;
                }
                x[k] = toX0 * x0 + toEps * eps + (float)c * z[k];
                yield return x[k];
            }
        }
    }

    static double Number(string word) { return double.Parse(word, CultureInfo.InvariantCulture); }

    static uint Bits(float value) { return BitConverter.ToUInt32(BitConverter.GetBytes(value), 0); }

    static string Answer(string[] words)
    {
        Func<int, uint> word = k => uint.Parse(words[k]);
        switch (words[0])
        {
            case "words":
                return string.Join(" ", Philox(new[] { word(1), word(2), word(3), word(4) }, word(5), word(6)));
            case "normals": return Bits(Normal(word(1))).ToString();
            case "noise":
                return string.Join(" ", Noise(ulong.Parse(words[1]), word(2), word(3), word(4), (int)word(5)).Select(Bits));
            case "times": return string.Join(" ", Times((int)word(1), (int)word(2)));
            case "levels":
                float level = 127.5f * BitConverter.ToSingle(BitConverter.GetBytes(word(1)), 0) + 127.5f;
                return ((int)(Math.Min(Math.Max(level, 0f), 255f) + 0.5f)).ToString();
            case "trajectory":
                return string.Join(" ", Trajectory(words).Select(x => x.ToString("R", CultureInfo.InvariantCulture)));
            default: return "skip";
        }
    }

    static void Main()
    {
        for (string line = Console.ReadLine(); line != null; line = Console.ReadLine()) Console.WriteLine(Answer(line.Split(' ')));
    }
}

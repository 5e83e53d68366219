//! Answers the lines of the conformance kit, but `spec`: `rustc --edition 2021 -O main.rs`, then
//! `python -m ddpm_export.conformance --families words,normals,noise,times,levels,trajectory -- ./main`.

use std::io::{self, BufRead, BufWriter, Write};
use std::str::FromStr;

/// Philox4x32-10 (Salmon et al. 2011).
fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut a, mut b, mut c, mut d], [mut k, mut l]) = (counter, key);
    for _ in 0..10 {
        let p = 0xD2511F53u64 * u64::from(a);
        let q = 0xCD9E8D57u64 * u64::from(c);
        (a, b, c, d) = ((q >> 32) as u32 ^ b ^ k, q as u32, (p >> 32) as u32 ^ d ^ l, p as u32);
        k = k.wrapping_add(0x9E3779B9);
        l = l.wrapping_add(0xBB67AE85);
    }
    [a, b, c, d]
}

/// The inverse normal distribution for 2^-33 <= p <= 1/2 (Wichura 1988, AS 241).
fn inverse_normal(p: f64) -> f64 {
    const CENTRE: [[f64; 8]; 2] = [
        [
            3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
            4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3,
        ],
        [
            1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
            2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3,
        ],
    ];
    const TAIL: [[f64; 8]; 2] = [
        [
            1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
            1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4,
        ],
        [
            1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
            1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9,
        ],
    ];
    let ratio = |table: &[[f64; 8]; 2], r: f64| {
        let [over, under] = table.map(|row| row.iter().rev().fold(0.0, |sum, c| sum * r + c));
        over / under
    };
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        return q * ratio(&CENTRE, 0.180625 - q * q);
    }
    -ratio(&TAIL, (-p.ln()).sqrt() - 1.6)
}

/// The table of docs/format.md, section 3: 32 rows of 257.
fn normal_table() -> Vec<i64> {
    let entry = |e: i32, j: i32| {
        let p = if e == 31 { 2f64.powi(-33) } else { f64::from(256 + j) * 2f64.powi(-10 - e) };
        (-inverse_normal(p) * 1048576.0).round_ties_even() as i64
    };
    (0..32).flat_map(|e| (0..257).map(move |j| entry(e, j))).collect()
}

fn normal(table: &[i64], word: u32) -> f32 {
    let m = word & 0x7FFFFFFF;
    let e = if m == 0 { 31 } else { m.leading_zeros() - 1 };
    let f = i64::from(m) << e.min(30);
    let cell = (e as usize) * 257 + ((f >> 22) & 0xFF) as usize;
    let z = table[cell] - (((table[cell] - table[cell + 1]) * (f & 0x3FFFFF)) >> 22);
    (if word >> 31 == 1 { -z } else { z }) as f32 / 1048576.0
}

fn noise(table: &[i64], seed: u64, image: u32, draw: u32, domain: u32, count: usize) -> Vec<f32> {
    let key = [seed as u32, (seed >> 32) as u32];
    let words = (0..).flat_map(|block| philox([block, draw, image, domain], key));
    words.take(count).map(|word| normal(table, word)).collect()
}

fn times(all: usize, steps: usize) -> Vec<usize> {
    (0..steps).map(|i| all * (steps - i) / steps - 1).collect()
}

/// Every state of ddim(eta) over the best denoiser for pixels that are each N(mean, std^2).
fn trajectory(table: &[i64], words: &[&str]) -> Vec<f32> {
    let (seed, image, count, steps): (u64, u32, usize, usize) = (of(words[0]), of(words[1]), of(words[2]), of(words[3]));
    let (eta, mean, std): (f64, f64, f64) = (of(words[4]), of(words[6]), of(words[7]));
    let clip: f32 = if words[5] == "none" { f32::INFINITY } else { of(words[5]) };
    let alphas: Vec<f64> = words[8..].iter().map(|word| of(word)).collect();
    let grid = times(alphas.len(), steps);
    let (mut x, mut states) = (noise(table, seed, image, 0, 0, count), Vec::new());
    for i in 0..steps {
        let a = alphas[grid[i]];
        let a_prev = if i + 1 < steps { alphas[grid[i + 1]] } else { 1.0 };
        let c = eta * ((1.0 - a_prev) / (1.0 - a)).sqrt() * (1.0 - a / a_prev).sqrt();
        let slope = ((1.0 - a).sqrt() / (a * std * std + 1.0 - a)) as f32;
        let (shift, root_a, root_1_a) = ((a.sqrt() * mean) as f32, a.sqrt() as f32, (1.0 - a).sqrt() as f32);
        let (to_x_0, to_eps) = (a_prev.sqrt() as f32, (1.0 - a_prev - c * c).max(0.0).sqrt() as f32);
        let fresh = noise(table, seed, image, i as u32 + 1, 0, count);
        for (pixel, z) in x.iter_mut().zip(fresh) {
            let mut eps = slope * (*pixel - shift);
            let mut x_0 = (*pixel - root_1_a * eps) / root_a;
            if clip < f32::INFINITY {
                x_0 = x_0.clamp(-clip, clip);
                eps = (*pixel - root_a * x_0) / root_1_a;
            }
            *pixel = to_x_0 * x_0 + to_eps * eps + c as f32 * z;
        }
        states.extend_from_slice(&x);
    }
    states
}

fn of<T: FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| panic!("{word} is no number"))
}

fn joined<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(" ")
}

fn main() -> io::Result<()> {
    let (table, mut out) = (normal_table(), BufWriter::new(io::stdout()));
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let numbers = || words[1..].iter().map(|word| of::<u64>(word)).collect::<Vec<_>>();
        let answer = match (words[0], words.len()) {
            ("words", 7) => {
                let n: Vec<u32> = numbers().iter().map(|n| *n as u32).collect();
                joined(philox([n[0], n[1], n[2], n[3]], [n[4], n[5]]))
            }
            ("normals", 2) => normal(&table, of(words[1])).to_bits().to_string(),
            ("noise", 6) => {
                let n = numbers();
                let made = noise(&table, n[0], n[1] as u32, n[2] as u32, n[3] as u32, n[4] as usize);
                joined(made.iter().map(|value| value.to_bits()))
            }
            ("times", 3) => joined(times(of(words[1]), of(words[2]))),
            ("levels", 2) => {
                let level = 127.5 * f32::from_bits(of(words[1])) + 127.5;
                ((level.clamp(0.0, 255.0) + 0.5).floor() as u8).to_string()
            }
            ("trajectory", 10..) => joined(trajectory(&table, &words[1..])),
            _ => "skip".to_string(),
        };
        writeln!(out, "{answer}")?;
    }
    out.flush()
}

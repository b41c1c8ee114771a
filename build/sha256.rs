//! SHA-256 (FIPS 180-4), for digests that people compare with those of `sha256sum`. A build script has no use for more:
//! the text is whole in memory, and nothing secret is hashed.

/// The cube root's first 32 fractional bits of each of the first 64 primes.
const K: [u32; 64] = fractions(Root::Cube);

#[derive(Clone, Copy)]
enum Root {
    Square,
    Cube,
}

/// The first 32 fractional bits of a root of each of the first `N` primes: the largest `r` with `r^2 <= p * 2^64`, or `r^3 <= p
/// * 2^96`, less its whole part.
const fn fractions<const N: usize>(root: Root) -> [u32; N] {
    let mut table = [0; N];
    let (mut found, mut candidate) = (0, 2u128);
    while found < N {
        let (mut divisor, mut prime) = (2, true);
        while divisor * divisor <= candidate {
            prime = prime && !candidate.is_multiple_of(divisor);
            divisor += 1;
        }
        if prime {
            // Bit by bit from above: roots of the primes up to 311 are below 2^5, with 32 bits behind the point below 2^37.
            let (mut r, mut bit) = (0u128, 1u128 << 36);
            while bit > 0 {
                let next = r + bit;
                let below = match root {
                    Root::Square => next * next <= candidate << 64,
                    Root::Cube => next * next * next <= candidate << 96,
                };
                if below {
                    r = next;
                }
                bit >>= 1;
            }
            table[found] = r as u32;
            found += 1;
        }
        candidate += 1;
    }
    table
}

/// The digest, in 64 hexadecimal digits.
pub fn hex(text: &[u8]) -> String {
    let mut padded = text.to_vec();
    padded.push(0x80);
    padded.resize((padded.len() + 8).next_multiple_of(64) - 8, 0);
    padded.extend((text.len() as u64 * 8).to_be_bytes());
    let mut state: [u32; 8] = fractions(Root::Square);
    for block in padded.chunks_exact(64) {
        compress(&mut state, block);
    }
    state.iter().map(|word| format!("{word:08x}")).collect()
}

fn compress(state: &mut [u32; 8], block: &[u8]) {
    let mut w = [0u32; 64];
    for (word, bytes) in w.iter_mut().zip(block.chunks_exact(4)) {
        *word = bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
    }
    for t in 16..64 {
        let (a, b) = (w[t - 15], w[t - 2]);
        let s0 = a.rotate_right(7) ^ a.rotate_right(18) ^ a >> 3;
        let s1 = b.rotate_right(17) ^ b.rotate_right(19) ^ b >> 10;
        w[t] = w[t - 16].wrapping_add(s0).wrapping_add(w[t - 7]).wrapping_add(s1);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for (k, w) in K.iter().zip(w) {
        let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let chosen = e & f ^ !e & g;
        let t1 = [s1, chosen, *k, w].iter().fold(h, |sum, x| sum.wrapping_add(*x));
        let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let majority = a & b ^ a & c ^ b & c;
        (h, g, f, e) = (g, f, e, d.wrapping_add(t1));
        (d, c, b, a) = (c, b, a, t1.wrapping_add(s0).wrapping_add(majority));
    }
    for (word, now) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *word = word.wrapping_add(now);
    }
}

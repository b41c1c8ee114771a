//! RMSNorm (Zhang and Sennrich, 2019) and LayerNorm (Ba, Kiros and Hinton, 2016), rows of `gamma.len()` columns.
//!
//! ```text
//! mean   of a row's x; 0 of an RMSNorm        s = 1 / sqrt(mean((x - mean)^2) + eps)
//! h      (x - mean) s                         y = h gamma + beta
//! g      dy gamma                             dx = s (g - h mean(g h) - mean(g)), without mean(g) of an RMSNorm
//! dgamma sum over rows of dy h                dbeta = sum over rows of dy
//! ```

/// Gradients of a norm.
#[derive(Debug, Clone, PartialEq)]
pub struct NormGradients {
    /// Of x.
    pub dx: Vec<f64>,
    /// Of gamma.
    pub dgamma: Vec<f64>,
    /// Of beta.
    pub dbeta: Vec<f64>,
}

/// A row's mean, 0 where it is not `centred` (an RMSNorm), and s.
pub fn norm_stats(row: &[f64], eps: f64, centred: bool) -> (f64, f64) {
    let n = row.len() as f64;
    let mean = if centred { row.iter().sum::<f64>() / n } else { 0.0 };
    let square = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    (mean, 1.0 / (square + eps).sqrt())
}

/// y. A LayerNorm where `centred`, else an RMSNorm.
pub fn norm(x: &[f64], gamma: &[f64], beta: Option<&[f64]>, eps: f64, centred: bool) -> Vec<f64> {
    let row = |row: &[f64]| {
        let (mean, s) = norm_stats(row, eps, centred);
        let y = |(i, x): (usize, &f64)| (x - mean) * s * gamma[i] + beta.map_or(0.0, |beta| beta[i]);
        row.iter().enumerate().map(y).collect::<Vec<f64>>()
    };
    x.chunks(gamma.len().max(1)).flat_map(row).collect()
}

/// The gradients, from dy.
pub fn norm_backward(x: &[f64], gamma: &[f64], eps: f64, centred: bool, dy: &[f64]) -> NormGradients {
    let d = gamma.len();
    let mut all = NormGradients {
        dx: Vec::with_capacity(x.len()),
        dgamma: vec![0.0; d],
        dbeta: vec![0.0; d],
    };
    for (x, dy) in x.chunks(d.max(1)).zip(dy.chunks(d.max(1))) {
        let (mean, s) = norm_stats(x, eps, centred);
        let h: Vec<f64> = x.iter().map(|x| (x - mean) * s).collect();
        let g: Vec<f64> = dy.iter().zip(gamma).map(|(dy, gamma)| dy * gamma).collect();
        let mean_gh = g.iter().zip(&h).map(|(g, h)| g * h).sum::<f64>() / d as f64;
        let mean_g = if centred { g.iter().sum::<f64>() / d as f64 } else { 0.0 };
        for i in 0..d {
            all.dx.push(s * (g[i] - h[i] * mean_gh - mean_g));
            all.dgamma[i] += dy[i] * h[i];
            all.dbeta[i] += dy[i];
        }
    }
    all
}

//! What an operation stages in the heap, and how much of it goes through one half at a time.
//!
//! Every kernel works in rounds. A round consists of units, and each unit costs the same bytes and signals of a staging
//! half, so the largest panel that fits is a division:
//!
//! | order | unit | bytes of a unit | signals |
//! |---|---|---|---|
//! | scatter (GEMM+RS, RS) | one row of tiles of every owner, or a pair of rows | P * ceil(N / BN) tiles (twice that) on the wire | one a tile |
//! | waves (GEMM+AR, AR two-shot) | one wave of G CTAs | P * ceil(G / P) tiles on the wire, G tiles of the output | one a tile |
//! | gather (AG+GEMM, AG) | one row block of every source | P * BM * K, rows padded to 16 bytes; BM of AG: `gather_rows` | one a piece of a block |
//!
//! The counts go to the kernels as they are (`TwParams::slots` and its neighbours); `csrc/schedule` has the orders, not the
//! sizes. Sizes saturate: what overflows does not fit.

use crate::memory::layout::Layout;

/// The largest grid: no GPU of today keeps more CTAs of these kernels resident, and a bound lets the heap's size be told
/// before the machine is known.
pub(crate) const MAX_GRID: u32 = 1024;

/// What one tile of a reduction weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TileBytes {
    /// As a partial.
    pub wire: u64,
    /// As a result.
    pub output: u64,
}

/// Units of staging, all alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Staging {
    /// Bytes of a half that one unit takes.
    pub bytes: u64,
    /// Signals of a half that one unit takes.
    pub signals: u64,
    /// Units in all, at least 1.
    pub units: u64,
    /// What `TwParams::panel` counts: rows of a unit, or 1 for a wave.
    pub step: u64,
    /// Slots of one rank in a unit: blocks of an owner, partials of a source, row blocks of a source.
    pub slots: u64,
}

/// How an operation is cut into rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rounds {
    /// `TwParams::panel`.
    pub panel: u32,
    /// `TwParams::panels`.
    pub panels: u32,
    /// Units of one round.
    pub units: u32,
}

impl Staging {
    /// GEMM+RS and RS: tiles of `tile` = (rows, columns) elements over `chunk` rows of each of `world` owners.
    /// Rows of tiles are taken `cluster` at a time.
    pub fn scatter(chunk: u64, n: u64, world: u64, tile: (u64, u64), cluster: u64, bytes: TileBytes) -> Staging {
        let slots = n.div_ceil(tile.1) * cluster;
        let step = tile.0 * cluster;
        let tiles = world.saturating_mul(slots);
        Staging {
            bytes: tiles.saturating_mul(bytes.wire),
            signals: tiles,
            units: chunk.div_ceil(step).max(1),
            step,
            slots,
        }
    }

    /// GEMM+AR and AR, two-shot: `tiles` tiles by `grid` CTAs at a time.
    pub fn waves(tiles: u64, grid: u64, world: u64, bytes: TileBytes) -> Staging {
        let grid = grid.max(1);
        let slots = grid.div_ceil(world);
        let partials = world * slots;
        Staging {
            bytes: partials
                .saturating_mul(bytes.wire)
                .saturating_add(grid.saturating_mul(bytes.output)),
            signals: partials + grid,
            units: tiles.div_ceil(grid).max(1),
            step: 1,
            slots,
        }
    }

    /// AG+GEMM and AG: blocks of `block_rows` rows of `row_bytes` bytes over `chunk` rows of each of `world` sources.
    /// A block goes in `pieces`, a signal each.
    pub fn gather(chunk: u64, world: u64, block_rows: u64, pieces: u64, row_bytes: u64) -> Staging {
        Staging {
            bytes: world.saturating_mul(block_rows).saturating_mul(row_bytes),
            signals: world * pieces,
            units: chunk.div_ceil(block_rows).max(1),
            step: block_rows,
            slots: 1,
        }
    }

    /// Units that fit into a half at once: up to all, perhaps none.
    pub fn units_in(&self, layout: &Layout) -> u64 {
        let by = |have: u64, each: u64| have.checked_div(each).unwrap_or(u64::MAX);
        self.units
            .min(by(layout.staging_half, self.bytes))
            .min(by(layout.signals_count(), self.signals))
    }

    /// The rounds; `None` where not even one unit fits.
    pub fn rounds(&self, layout: &Layout) -> Option<Rounds> {
        let units = self.units_in(layout);
        if units == 0 {
            return None;
        }
        let panels = self.units.div_ceil(units);
        // As many rounds as needed, but even ones.
        let units = self.units.div_ceil(panels);
        Some(Rounds {
            panel: u32::try_from(units * self.step).ok()?,
            panels: u32::try_from(self.units.div_ceil(units)).ok()?,
            units: u32::try_from(units).ok()?,
        })
    }
}

/// The largest grid up to `limit` of which one wave fits; 0 where not even one CTA's does.
pub(crate) fn largest_wave(limit: u32, world: u64, bytes: TileBytes, layout: &Layout) -> u32 {
    let fits = |grid: u32| Staging::waves(grid as u64, grid as u64, world, bytes).units_in(layout) > 0;
    (1..=limit.min(MAX_GRID)).rev().find(|grid| fits(*grid)).unwrap_or(0)
}

/// Columns of a row whose bytes are padded to 16, in elements.
pub(crate) const fn padded(cols: u64, element: u64) -> u64 {
    cols.next_multiple_of(16 / element)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layouts() -> Vec<Layout> {
        [200_000, 1 << 20, 5 << 20, 1 << 24]
            .into_iter()
            .flat_map(|heap| (1..=16).filter_map(move |world| Layout::new(heap, world, 1024).ok()))
            .collect()
    }

    /// What the kernels use of a half in one round, counted as they index it, and rounds that cover everything once.
    #[test]
    fn every_choice_fits_and_covers() {
        let bytes = TileBytes {
            wire: 8192,
            output: 16384,
        };
        let mut several = 0;
        for layout in layouts() {
            let p = layout.world;
            for rows in [0, 1, 63, 64, 65, 1000, 5000] {
                for n in [0, 1, 64, 65, 700] {
                    let chunk = u64::div_ceil(rows, p);
                    if let Some(r) = Staging::scatter(chunk, n, p, (64, 64), 1, bytes).rounds(&layout) {
                        let (panel, panels) = (r.panel as u64, r.panels as u64);
                        assert_eq!(panel % 64, 0);
                        assert!(panel * panels >= chunk && panel * (panels - 1) < chunk.max(1));
                        let slots = panel.min(chunk).div_ceil(64) * n.div_ceil(64);
                        assert!(p * slots * 8192 <= layout.staging_half && p * slots <= layout.signals_count());
                        several += (panels > 1) as u32;
                    } else {
                        assert!(p * n.div_ceil(64) * 8192 > layout.staging_half);
                    }
                    let tiles = rows.div_ceil(64) * n.div_ceil(64);
                    for grid in [1, 2, p - p / 2, p, p + 1, 100] {
                        let Some(r) = Staging::waves(tiles, grid, p, bytes).rounds(&layout) else {
                            continue;
                        };
                        let (panel, panels) = (r.panel as u64, r.panels as u64);
                        assert!(
                            panel * panels >= tiles.div_ceil(grid)
                                && panel * (panels - 1) < tiles.div_ceil(grid).max(1)
                        );
                        let slots = panel * grid.div_ceil(p);
                        assert!(p * slots * 8192 + panel * grid * 16384 <= layout.staging_half);
                        assert!(p * slots + panel * grid <= layout.signals_count());
                    }
                    let row = padded(n, 2) * 2;
                    if let Some(r) = Staging::gather(chunk, p, 64, 1, row).rounds(&layout) {
                        let (panel, panels) = (r.panel as u64, r.panels as u64);
                        assert!(panel * panels >= chunk && panel * (panels - 1) < chunk.max(1));
                        assert!(p * panel * row <= layout.staging_half);
                        assert!(p * panel.div_ceil(64) <= layout.signals_count());
                    }
                }
            }
        }
        assert!(several > 100);
    }

    #[test]
    fn the_largest_wave_is_the_largest() {
        let bytes = TileBytes {
            wire: 8192,
            output: 8192,
        };
        for layout in layouts() {
            let grid = largest_wave(300, layout.world, bytes, &layout) as u64;
            let need = |g: u64| layout.world * g.div_ceil(layout.world) * 8192 + g * 8192;
            assert!(grid == 0 || need(grid) <= layout.staging_half);
            assert!(grid == 300 || need(grid + 1) > layout.staging_half, "{grid} {layout:?}");
        }
    }

    #[test]
    fn what_overflows_does_not_fit() {
        let layout = Layout::new(1 << 20, 4, 0).unwrap();
        let bytes = TileBytes {
            wire: u64::MAX / 2,
            output: u64::MAX / 2,
        };
        assert_eq!(
            Staging::scatter(1, 1 << 40, 4, (64, 64), 1, bytes).rounds(&layout),
            None
        );
        assert_eq!(Staging::waves(1 << 40, 1000, 4, bytes).rounds(&layout), None);
        assert_eq!(Staging::gather(1, 4, 64, 1, u64::MAX).rounds(&layout), None);
    }

    #[test]
    fn padding() {
        assert_eq!(
            (padded(0, 2), padded(1, 2), padded(8, 2), padded(9, 2), padded(5, 4)),
            (0, 8, 8, 16, 8)
        );
    }
}

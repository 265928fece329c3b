//! 3×3 convolution with stride 1 and same size by Winograd's algorithms F(2×2, 3×3) and F(4×4, 3×3)
//! (Lavin & Gray 2016, arXiv:1509.09308): 16 multiplications for 4 pixels, or 36 for 16, where the
//! direct form has 9 for each.
//!
//! The map is cut into tiles of Q×Q output pixels, which depend on P×P input pixels, P = Q + 2. Tiles
//! and kernel are taken to P×P points (`transform`), and at each point the tiles of a block are rows of
//! a matrix that is multiplied with the kernel's matrix at that point. A block's matrices stay in a
//! core's second-level cache.

use std::ops::Range;

use pulp::Arch;

use super::transform::{Algorithm, Four, Two, apply};
use super::{FEW_CHANNELS, Geometry};
use crate::nn::kernels::buffer::{uninit, with_scratch};
use crate::nn::kernels::gemm::{Mat, Update, gemm};
use crate::nn::parallel;

/// Numbers in a block's matrices, where the kernel's leave room for them in the cache.
const BLOCK: usize = 5 << 16;

/// Numbers in a kernel's matrices beyond which they do not.
const LARGE: usize = 1 << 18;

/// The output pixels of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    /// 2×2.
    Two,
    /// 4×4.
    Four,
}

impl Tile {
    fn side(self) -> usize {
        match self {
            Tile::Two => 2,
            Tile::Four => 4,
        }
    }

    fn points(self) -> usize {
        (self.side() + 2).pow(2)
    }

    fn count(self, g: &Geometry) -> usize {
        tile_rows(g, self.side()) * tile_columns(g, self.side())
    }
}

/// The tile by which to compute `g` and its input gradient, if this is an algorithm for it. A kernel
/// that is `trained` is transformed anew in each step.
pub fn tile(g: &Geometry, trained: bool) -> Option<Tile> {
    // The transforms must be small beside the products, and the transformed kernel is kept.
    let (kernel, fewest) = (g.inputs * g.outputs, if trained { 64 } else { 16 });
    if !same_3x3(g) || Tile::Two.count(g) < fewest || kernel > 1 << 19 {
        return None;
    }
    // Reading a matrix of the kernel takes as long as multiplying some 32 rows with it.
    let cost = |tile: Tile| tile.points() * (tile.count(g) + 32);
    let four = kernel <= 1 << 17 && cost(Tile::Four) < cost(Tile::Two);
    Some(if four { Tile::Four } else { Tile::Two })
}

/// The tile by which to compute the gradient of the kernel, whose products are only as deep as there
/// are tiles.
pub fn kernel_gradient_tile(g: &Geometry) -> Option<Tile> {
    let deep = |tile: &Tile| tile.count(g) >= 48;
    if same_3x3(g) { [Tile::Four, Tile::Two].into_iter().find(deep) } else { None }
}

fn same_3x3(g: &Geometry) -> bool {
    (g.size, g.stride, g.before) == (3, 1, 1)
        && (g.out_height, g.out_width) == (g.height, g.width)
        && g.inputs.min(g.outputs) >= FEW_CHANNELS
}

/// Rows of tiles in a block.
fn block_rows<const Q: usize>(g: &Geometry) -> usize {
    let points = (Q + 2).pow(2);
    let tiles = if points * g.inputs * g.outputs <= LARGE {
        BLOCK / (points * (g.inputs + g.outputs))
    } else {
        // Every block reads the whole kernel from beyond the second-level cache: that must pay.
        (tile_rows(g, Q) * tile_columns(g, Q) / 4).clamp(128, 256)
    };
    let most = (tiles / tile_columns(g, Q)).max(1);
    tile_rows(g, Q).div_ceil(tile_rows(g, Q).div_ceil(most).max(1))
}

fn tile_columns(g: &Geometry, side: usize) -> usize {
    g.width.div_ceil(side)
}

fn tile_rows(g: &Geometry, side: usize) -> usize {
    g.batch * g.height.div_ceil(side)
}

/// The kernel [3, 3, inputs, outputs] at the points: [P², inputs, outputs]. Uses this thread alone.
pub fn transform_kernel(tile: Tile, inputs: usize, outputs: usize, w: &[f32]) -> Vec<f32> {
    match tile {
        Tile::Two => kernel_at_points::<Two, 4, 2>(inputs, outputs, w),
        Tile::Four => kernel_at_points::<Four, 6, 4>(inputs, outputs, w),
    }
}

/// `x` convolved by the kernel `u`, plus `bias` if there is one.
pub fn convolve(tile: Tile, g: &Geometry, x: &[f32], u: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    match tile {
        Tile::Two => convolve_by::<Two, 4, 2>(g, x, u, bias),
        Tile::Four => convolve_by::<Four, 6, 4>(g, x, u, bias),
    }
}

/// The gradient of the kernel [3, 3, inputs, outputs], from `dy` of the output.
pub fn kernel_gradient(tile: Tile, g: &Geometry, x: &[f32], dy: &[f32]) -> Vec<f32> {
    match tile {
        Tile::Two => kernel_gradient_by::<Two, 4, 2>(g, x, dy),
        Tile::Four => kernel_gradient_by::<Four, 6, 4>(g, x, dy),
    }
}

fn kernel_at_points<A: Algorithm<P, Q>, const P: usize, const Q: usize>(
    inputs: usize,
    outputs: usize,
    w: &[f32],
) -> Vec<f32> {
    let (arch, plane) = (Arch::new(), inputs * outputs);
    let mut u = uninit(P * P * plane);
    let mut planes = square::<P, _>(u.chunks_exact_mut(plane));
    for input in 0..inputs {
        let row = input * outputs..(input + 1) * outputs;
        let from = square(w.chunks_exact(plane).map(|w| &w[row.clone()]));
        apply::<A::Kernel, 3, P>(arch, from, rows_mut(&mut planes, row), None);
    }
    u
}

fn convolve_by<A: Algorithm<P, Q>, const P: usize, const Q: usize>(
    g: &Geometry,
    x: &[f32],
    u: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let kernel = |i: usize| Mat::new(&u[i * g.inputs * g.outputs..], g.inputs, g.outputs);
    let mut out = uninit(g.out_pixels() * g.outputs);
    let mut blocks = blocks::<Q>(g, &mut out, block_rows::<Q>(g));
    parallel::pieces_mut(&mut blocks, 1, |_, block| {
        let (rows, out) = &mut block[0];
        let tiles = rows.len() * tile_columns(g, Q);
        let (v_plane, m_plane) = (plane_size(tiles, g.inputs), plane_size(tiles, g.outputs));
        with_scratch(P * P * (v_plane + m_plane), |scratch| {
            let (v, m) = scratch.split_at_mut(P * P * v_plane);
            input_tiles::<A, P, Q>(g, x, rows.clone(), 0..g.inputs, v, v_plane);
            for (i, m) in m.chunks_exact_mut(m_plane).enumerate() {
                let v = Mat::new(&v[i * v_plane..], tiles, g.inputs);
                gemm(m, g.outputs, Update::Store, v, kernel(i));
            }
            output_tiles::<A, P, Q>(g, m, m_plane, bias, rows.clone(), out);
        });
    });
    out
}

fn kernel_gradient_by<A: Algorithm<P, Q>, const P: usize, const Q: usize>(
    g: &Geometry,
    x: &[f32],
    dy: &[f32],
) -> Vec<f32> {
    // A piece is a block of the kernel's matrix, so that no two pieces add to the same number.
    let (in_grain, out_grain) = (grain(g.inputs, 64), grain(g.outputs, 128));
    let mut pieces: Vec<(Range<usize>, Range<usize>, Vec<f32>)> = vec![];
    for i in (0..g.inputs).step_by(in_grain) {
        for j in (0..g.outputs).step_by(out_grain) {
            let (inputs, outputs) =
                (i..g.inputs.min(i + in_grain), j..g.outputs.min(j + out_grain));
            pieces.push((inputs, outputs, vec![]));
        }
    }
    parallel::pieces_mut(&mut pieces, 1, |_, piece| {
        let (inputs, outputs, dw) = &mut piece[0];
        *dw = kernel_gradient_block::<A, P, Q>(g, x, dy, inputs.clone(), outputs.clone());
    });
    let mut dw = uninit(9 * g.inputs * g.outputs);
    for (inputs, outputs, block) in pieces {
        for (row, values) in block.chunks_exact(outputs.len()).enumerate() {
            let (tap, input) = (row / inputs.len(), inputs.start + row % inputs.len());
            let start = (tap * g.inputs + input) * g.outputs + outputs.start;
            dw[start..start + values.len()].copy_from_slice(values);
        }
    }
    dw
}

/// Cuts `len` channels into equal groups of about `size`, multiples of 16.
fn grain(len: usize, size: usize) -> usize {
    len.div_ceil(len.div_ceil(size).max(1)).next_multiple_of(16)
}

/// The gradient of the kernel for some of the channels.
fn kernel_gradient_block<A: Algorithm<P, Q>, const P: usize, const Q: usize>(
    g: &Geometry,
    x: &[f32],
    dy: &[f32],
    inputs: Range<usize>,
    outputs: Range<usize>,
) -> Vec<f32> {
    let (n, m) = (inputs.len(), outputs.len());
    let rows = block_rows::<Q>(&Geometry { inputs: n, outputs: m, ..*g });
    let tiles = rows * tile_columns(g, Q);
    let (v_plane, d_plane, plane) = (plane_size(tiles, n), plane_size(tiles, m), n * m);
    let mut dw = uninit(9 * plane);
    with_scratch(P * P * (v_plane + d_plane + plane), |scratch| {
        let (v, rest) = scratch.split_at_mut(P * P * v_plane);
        let (d, du) = rest.split_at_mut(P * P * d_plane);
        for start in (0..tile_rows(g, Q)).step_by(rows) {
            let rows = start..tile_rows(g, Q).min(start + rows);
            let tiles = rows.len() * tile_columns(g, Q);
            input_tiles::<A, P, Q>(g, x, rows.clone(), inputs.clone(), v, v_plane);
            gradient_tiles::<A, P, Q>(g, dy, rows, outputs.clone(), d, d_plane);
            let update = if start == 0 { Update::Store } else { Update::Add };
            for (i, du) in du.chunks_exact_mut(plane).enumerate() {
                let v = Mat::new(&v[i * v_plane..], tiles, n);
                gemm(du, m, update, v.t(), Mat::new(&d[i * d_plane..], tiles, m));
            }
        }
        let (arch, mut taps) = (Arch::new(), square::<3, _>(dw.chunks_exact_mut(plane)));
        for row in (0..n).map(|i| i * m..(i + 1) * m) {
            let from = square(du.chunks_exact(plane).map(|du| &du[row.clone()]));
            apply::<A::KernelGradient, P, 3>(arch, from, rows_mut(&mut taps, row), None);
        }
    });
    dw
}

/// The size of a matrix of `tiles` rows, with a gap that keeps the matrices of the 16 points from
/// competing for the same lines of the first-level cache.
fn plane_size(tiles: usize, channels: usize) -> usize {
    (tiles * channels).next_multiple_of(16) + 16
}

/// Cuts the output into blocks of `rows` rows of tiles.
fn blocks<'a, const Q: usize>(
    g: &Geometry,
    mut out: &'a mut [f32],
    rows: usize,
) -> Vec<(Range<usize>, &'a mut [f32])> {
    let mut blocks = vec![];
    for start in (0..tile_rows(g, Q)).step_by(rows) {
        let range = start..tile_rows(g, Q).min(start + rows);
        let pixel_rows = pixel_row::<Q>(g, range.end) - pixel_row::<Q>(g, start);
        let block;
        (block, out) = out.split_at_mut(pixel_rows * g.width * g.outputs);
        blocks.push((range, block));
    }
    blocks
}

/// The row of pixels, counted over all images, where a row of tiles begins.
fn pixel_row<const Q: usize>(g: &Geometry, tile_row: usize) -> usize {
    let per_image = g.height.div_ceil(Q);
    tile_row / per_image * g.height + tile_row % per_image * Q
}

/// The tiles of some rows, as (number, image, first pixel row, first pixel column).
fn tiles<const Q: usize>(
    g: &Geometry,
    rows: Range<usize>,
) -> impl Iterator<Item = [usize; 4]> + use<Q> {
    let (columns, per_image) = (tile_columns(g, Q), g.height.div_ceil(Q));
    rows.flat_map(move |row| (0..columns).map(move |column| (row, column)))
        .enumerate()
        .map(move |(i, (row, column))| [i, row / per_image, row % per_image * Q, column * Q])
}

/// Takes the P×P input pixels of each tile to the points: `v` is P² matrices [tiles, channels].
fn input_tiles<A: Algorithm<P, Q>, const P: usize, const Q: usize>(
    g: &Geometry,
    x: &[f32],
    rows: Range<usize>,
    channels: Range<usize>,
    v: &mut [f32],
    plane: usize,
) {
    let (arch, zeros) = (Arch::new(), vec![0.0; channels.len()]);
    let mut planes = square::<P, _>(v.chunks_exact_mut(plane));
    for [tile, image, y, left] in tiles::<Q>(g, rows) {
        let mut from = [[&zeros[..]; P]; P];
        for (i, from) in from.iter_mut().enumerate() {
            // The tile begins one pixel above and to the left: the padding.
            let Some(y) = (y + i).checked_sub(1).filter(|y| *y < g.height) else { continue };
            let line = (image * g.height + y) * g.width;
            for (j, from) in from.iter_mut().enumerate() {
                if let Some(column) = (left + j).checked_sub(1).filter(|c| *c < g.width) {
                    let start = (line + column) * g.inputs;
                    *from = &x[start + channels.start..start + channels.end];
                }
            }
        }
        let row = tile * channels.len()..(tile + 1) * channels.len();
        apply::<A::Input, P, P>(arch, from, rows_mut(&mut planes, row), None);
    }
}

/// Takes the gradients of each tile's Q×Q output pixels to the points.
fn gradient_tiles<A: Algorithm<P, Q>, const P: usize, const Q: usize>(
    g: &Geometry,
    dy: &[f32],
    rows: Range<usize>,
    channels: Range<usize>,
    d: &mut [f32],
    plane: usize,
) {
    let (arch, zeros) = (Arch::new(), vec![0.0; channels.len()]);
    let mut planes = square::<P, _>(d.chunks_exact_mut(plane));
    for [tile, image, y, left] in tiles::<Q>(g, rows) {
        let mut from = [[&zeros[..]; Q]; Q];
        for (i, from) in from.iter_mut().enumerate().take(g.height - y) {
            let line = (image * g.height + y + i) * g.width;
            for (j, from) in from.iter_mut().enumerate().take(g.width - left) {
                let start = (line + left + j) * g.outputs;
                *from = &dy[start + channels.start..start + channels.end];
            }
        }
        let row = tile * channels.len()..(tile + 1) * channels.len();
        apply::<A::OutputGradient, Q, P>(arch, from, rows_mut(&mut planes, row), None);
    }
}

/// Takes the products at the points to each tile's Q×Q output pixels, and adds the bias.
fn output_tiles<A: Algorithm<P, Q>, const P: usize, const Q: usize>(
    g: &Geometry,
    m: &[f32],
    plane: usize,
    bias: Option<&[f32]>,
    rows: Range<usize>,
    out: &mut [f32],
) {
    let (arch, n) = (Arch::new(), g.outputs);
    let planes = square::<P, _>(m.chunks_exact(plane));
    let first = pixel_row::<Q>(g, rows.start);
    // Where a tile reaches beyond the map.
    let mut beyond = vec![0.0; Q * Q * n];
    for [tile, image, y, left] in tiles::<Q>(g, rows) {
        let line = (image * g.height + y - first) * g.width;
        let mut lines = out[line * n..].chunks_exact_mut(g.width * n).take((g.height - y).min(Q));
        let mut spare = beyond.chunks_exact_mut(n);
        let to = [(); Q].map(|()| {
            let line = lines.next().map_or(Default::default(), |line| &mut line[left * n..]);
            let mut pixels = line.chunks_exact_mut(n);
            [(); Q].map(|()| pixels.next().or_else(|| spare.next()).expect("Q² to spare"))
        });
        let from = planes.map(|row| row.map(|m| &m[tile * n..(tile + 1) * n]));
        apply::<A::Output, P, Q>(arch, from, to, bias);
    }
}

/// The elements of an iterator, in rows of P.
fn square<const P: usize, T>(elements: impl IntoIterator<Item = T>) -> [[T; P]; P] {
    let mut elements = elements.into_iter();
    [(); P].map(|()| [(); P].map(|()| elements.next().expect("P² elements")))
}

/// The same range of every matrix.
fn rows_mut<'a, const P: usize>(
    planes: &'a mut [[&mut [f32]; P]; P],
    range: Range<usize>,
) -> [[&'a mut [f32]; P]; P] {
    planes.each_mut().map(|row| row.each_mut().map(|plane| &mut plane[range.clone()]))
}

//! 3×3 convolution with stride 1 and same size by Winograd's algorithm F(2×2, 3×3) (Lavin & Gray
//! 2016, arXiv:1509.09308): 16 multiplications for 4 pixels where the direct form has 36.
//!
//! The map is cut into tiles of 2×2 output pixels, which depend on 4×4 input pixels. Tiles and kernel
//! are taken to 16 points (`transform`), and at each point the tiles of a block are rows of a matrix
//! that is multiplied with the kernel's matrix at that point. A block's matrices stay in a core's
//! second-level cache.

use std::ops::Range;

use pulp::Arch;

use super::transform::{Input, Kernel, KernelGradient, Output, OutputGradient, apply};
use super::{FEW_CHANNELS, Geometry};
use crate::nn::kernels::buffer::{uninit, with_scratch};
use crate::nn::kernels::gemm::{Mat, Update, gemm};
use crate::nn::parallel;

const POINTS: usize = 16;

/// Numbers in a block's matrices, where the kernel's leave room for them in the cache.
const BLOCK: usize = 1 << 18;

/// Numbers in a kernel's matrices beyond which they do not.
const LARGE: usize = 1 << 18;

/// Whether this algorithm computes `g`, and is worth it.
pub fn suits(g: &Geometry) -> bool {
    let same = (g.out_height, g.out_width) == (g.height, g.width);
    let tiles = tile_rows(g) * tile_columns(g);
    // The transforms must be small beside the products, and the transformed kernel is kept.
    (g.size, g.stride, g.before) == (3, 1, 1)
        && same
        && g.inputs.min(g.outputs) >= FEW_CHANNELS
        && tiles >= 16
        && g.inputs * g.outputs <= 1 << 19
}

/// Whether that holds for the gradient of the kernel too, whose products are only as deep as there
/// are tiles.
pub fn suits_kernel_gradient(g: &Geometry) -> bool {
    suits(g) && tile_rows(g) * tile_columns(g) >= 48
}

/// Rows of tiles in a block.
fn block_rows(g: &Geometry) -> usize {
    let tiles = if POINTS * g.inputs * g.outputs <= LARGE {
        BLOCK / (POINTS * (g.inputs + g.outputs))
    } else {
        // Every block reads the whole kernel from beyond the second-level cache: that must pay.
        (tile_rows(g) * tile_columns(g) / 4).clamp(128, 256)
    };
    (tiles / tile_columns(g)).max(1)
}

fn tile_columns(g: &Geometry) -> usize {
    g.width.div_ceil(2)
}

fn tile_rows(g: &Geometry) -> usize {
    g.batch * g.height.div_ceil(2)
}

/// The kernel [3, 3, inputs, outputs] at the points: [16, inputs, outputs].
pub fn transform_kernel(inputs: usize, outputs: usize, w: &[f32]) -> Vec<f32> {
    let (arch, plane) = (Arch::new(), inputs * outputs);
    let mut u = uninit(POINTS * plane);
    let mut planes = square::<4, _>(u.chunks_exact_mut(plane));
    for input in 0..inputs {
        let row = input * outputs..(input + 1) * outputs;
        let from = square(w.chunks_exact(plane).map(|w| &w[row.clone()]));
        apply::<Kernel, 3, 4>(arch, from, rows_mut(&mut planes, row), None);
    }
    u
}

/// `x` convolved by the kernel `u`, plus `bias`.
pub fn forward(g: &Geometry, x: &[f32], u: &[f32], bias: &[f32]) -> Vec<f32> {
    let plane = g.inputs * g.outputs;
    convolve(g, x, Some(bias), |i| Mat::new(&u[i * plane..], g.inputs, g.outputs))
}

/// The gradient of the input, from `dy` of the output: a convolution by the flipped kernel, inputs
/// and outputs swapped. Flipping exchanges the points 0 and ∞ and leaves 1 and −1 alone.
pub fn input_gradient(g: &Geometry, dy: &[f32], u: &[f32]) -> Vec<f32> {
    const FLIPPED: [usize; 4] = [3, 1, 2, 0];
    let plane = g.inputs * g.outputs;
    let swapped = Geometry { inputs: g.outputs, outputs: g.inputs, ..*g };
    let transposed = |i: usize| {
        let i = FLIPPED[i / 4] * 4 + FLIPPED[i % 4];
        Mat::new(&u[i * plane..], g.inputs, g.outputs).t()
    };
    if block_rows(g) >= tile_rows(g) {
        return convolve(&swapped, dy, None, transposed);
    }
    // Otherwise every block would transpose it.
    let mut straight = vec![vec![]; POINTS];
    parallel::pieces_mut(&mut straight, 1, |i, matrix| matrix[0] = transposed(i).to_rows());
    convolve(&swapped, dy, None, |i| Mat::new(&straight[i], g.outputs, g.inputs))
}

fn convolve<'a>(
    g: &Geometry,
    x: &[f32],
    bias: Option<&[f32]>,
    kernel: impl Fn(usize) -> Mat<'a> + Sync + Send,
) -> Vec<f32> {
    let mut out = uninit(g.out_pixels() * g.outputs);
    let mut blocks = blocks(g, &mut out, block_rows(g));
    parallel::pieces_mut(&mut blocks, 1, |_, block| {
        let (rows, out) = &mut block[0];
        let tiles = rows.len() * tile_columns(g);
        let (v_plane, m_plane) = (plane_size(tiles, g.inputs), plane_size(tiles, g.outputs));
        with_scratch(POINTS * (v_plane + m_plane), |scratch| {
            let (v, m) = scratch.split_at_mut(POINTS * v_plane);
            input_tiles(g, x, rows.clone(), 0..g.inputs, v, v_plane);
            for (i, m) in m.chunks_exact_mut(m_plane).enumerate() {
                let v = Mat::new(&v[i * v_plane..], tiles, g.inputs);
                gemm(m, g.outputs, Update::Store, v, kernel(i));
            }
            output_tiles(g, m, m_plane, bias, rows.clone(), out);
        });
    });
    out
}

/// The gradient of the kernel [3, 3, inputs, outputs], from `dy` of the output.
pub fn kernel_gradient(g: &Geometry, x: &[f32], dy: &[f32]) -> Vec<f32> {
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
        *dw = kernel_gradient_block(g, x, dy, inputs.clone(), outputs.clone());
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
fn kernel_gradient_block(
    g: &Geometry,
    x: &[f32],
    dy: &[f32],
    inputs: Range<usize>,
    outputs: Range<usize>,
) -> Vec<f32> {
    let (n, m) = (inputs.len(), outputs.len());
    let rows = block_rows(&Geometry { inputs: n, outputs: m, ..*g }).min(tile_rows(g));
    let tiles = rows * tile_columns(g);
    let (v_plane, d_plane, plane) = (plane_size(tiles, n), plane_size(tiles, m), n * m);
    let mut dw = uninit(9 * plane);
    with_scratch(POINTS * (v_plane + d_plane + plane), |scratch| {
        let (v, rest) = scratch.split_at_mut(POINTS * v_plane);
        let (d, du) = rest.split_at_mut(POINTS * d_plane);
        for start in (0..tile_rows(g)).step_by(rows) {
            let rows = start..tile_rows(g).min(start + rows);
            let tiles = rows.len() * tile_columns(g);
            input_tiles(g, x, rows.clone(), inputs.clone(), v, v_plane);
            gradient_tiles(g, dy, rows, outputs.clone(), d, d_plane);
            let update = if start == 0 { Update::Store } else { Update::Add };
            for (i, du) in du.chunks_exact_mut(plane).enumerate() {
                let v = Mat::new(&v[i * v_plane..], tiles, n);
                gemm(du, m, update, v.t(), Mat::new(&d[i * d_plane..], tiles, m));
            }
        }
        let (arch, mut taps) = (Arch::new(), square::<3, _>(dw.chunks_exact_mut(plane)));
        for row in (0..n).map(|i| i * m..(i + 1) * m) {
            let from = square(du.chunks_exact(plane).map(|du| &du[row.clone()]));
            apply::<KernelGradient, 4, 3>(arch, from, rows_mut(&mut taps, row), None);
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
fn blocks<'a>(
    g: &Geometry,
    mut out: &'a mut [f32],
    rows: usize,
) -> Vec<(Range<usize>, &'a mut [f32])> {
    let mut blocks = vec![];
    for start in (0..tile_rows(g)).step_by(rows) {
        let range = start..tile_rows(g).min(start + rows);
        let pixel_rows = pixel_row(g, range.end) - pixel_row(g, start);
        let block;
        (block, out) = out.split_at_mut(pixel_rows * g.width * g.outputs);
        blocks.push((range, block));
    }
    blocks
}

/// The row of pixels, counted over all images, where a row of tiles begins.
fn pixel_row(g: &Geometry, tile_row: usize) -> usize {
    let per_image = g.height.div_ceil(2);
    tile_row / per_image * g.height + tile_row % per_image * 2
}

/// The tiles of some rows, as (number, image, first pixel row, first pixel column).
fn tiles(g: &Geometry, rows: Range<usize>) -> impl Iterator<Item = [usize; 4]> + use<> {
    let (columns, per_image) = (tile_columns(g), g.height.div_ceil(2));
    rows.flat_map(move |row| (0..columns).map(move |column| (row, column)))
        .enumerate()
        .map(move |(i, (row, column))| [i, row / per_image, row % per_image * 2, column * 2])
}

/// Takes the 4×4 input pixels of each tile to the points: `v` is 16 matrices [tiles, channels].
fn input_tiles(
    g: &Geometry,
    x: &[f32],
    rows: Range<usize>,
    channels: Range<usize>,
    v: &mut [f32],
    plane: usize,
) {
    let (arch, zeros) = (Arch::new(), vec![0.0; channels.len()]);
    let mut planes = square::<4, _>(v.chunks_exact_mut(plane));
    for [tile, image, y, left] in tiles(g, rows) {
        let mut from = [[&zeros[..]; 4]; 4];
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
        apply::<Input, 4, 4>(arch, from, rows_mut(&mut planes, row), None);
    }
}

/// Takes the gradients of each tile's 2×2 output pixels to the points.
fn gradient_tiles(
    g: &Geometry,
    dy: &[f32],
    rows: Range<usize>,
    channels: Range<usize>,
    d: &mut [f32],
    plane: usize,
) {
    let (arch, zeros) = (Arch::new(), vec![0.0; channels.len()]);
    let mut planes = square::<4, _>(d.chunks_exact_mut(plane));
    for [tile, image, y, left] in tiles(g, rows) {
        let mut from = [[&zeros[..]; 2]; 2];
        for (i, from) in from.iter_mut().enumerate().take(g.height - y) {
            let line = (image * g.height + y + i) * g.width;
            for (j, from) in from.iter_mut().enumerate().take(g.width - left) {
                let start = (line + left + j) * g.outputs;
                *from = &dy[start + channels.start..start + channels.end];
            }
        }
        let row = tile * channels.len()..(tile + 1) * channels.len();
        apply::<OutputGradient, 2, 4>(arch, from, rows_mut(&mut planes, row), None);
    }
}

/// Takes the products at the points to each tile's 2×2 output pixels, and adds the bias.
fn output_tiles(
    g: &Geometry,
    m: &[f32],
    plane: usize,
    bias: Option<&[f32]>,
    rows: Range<usize>,
    out: &mut [f32],
) {
    let (arch, n) = (Arch::new(), g.outputs);
    let planes = square::<4, _>(m.chunks_exact(plane));
    let first = pixel_row(g, rows.start);
    // Where a tile reaches beyond the map.
    let mut beyond = vec![0.0; 4 * n];
    for [tile, image, y, left] in tiles(g, rows) {
        let line = (image * g.height + y - first) * g.width;
        let (upper, lower) = out[line * n..].split_at_mut(g.width * n);
        let lower = (y + 1 < g.height).then(|| &mut lower[left * n..g.width * n]);
        let mut spare = beyond.chunks_exact_mut(n);
        let to = [pair(Some(&mut upper[left * n..]), n, &mut spare), pair(lower, n, &mut spare)];
        let from = planes.map(|row| row.map(|m| &m[tile * n..(tile + 1) * n]));
        apply::<Output, 4, 2>(arch, from, to, bias);
    }
}

/// The first two pixels of a line of pixels of `n` channels, from `spare` where it has none.
fn pair<'a>(
    line: Option<&'a mut [f32]>,
    n: usize,
    spare: &mut impl Iterator<Item = &'a mut [f32]>,
) -> [&'a mut [f32]; 2] {
    let mut pixels = line.into_iter().flat_map(|line| line.chunks_exact_mut(n).take(2));
    [(); 2].map(|()| pixels.next().or_else(|| spare.next()).expect("four to spare"))
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

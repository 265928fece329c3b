//! Threads, used so that results never depend on how many there are.
//!
//! Work is cut by shapes alone and every piece is computed the same way wherever it runs. A batch is
//! split first, each part running the whole network on one thread: that beats threads inside small
//! operations by far. Only where a batch has one part do the operations use threads themselves.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

thread_local! {
    static IN_PART: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` for each of `parts` parts of a batch, in parallel, and returns the results in order.
pub fn parts<T: Send, E: Send>(
    parts: usize,
    f: impl Fn(usize) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    if parts <= 1 || IN_PART.get() {
        return (0..parts).map(f).collect();
    }
    (0..parts).into_par_iter().map(as_part(&f)).collect()
}

/// `f` as it runs for a part of a batch, on whichever thread: its operations use no threads, and the
/// backend is the one in force here.
fn as_part<T>(f: &(impl Fn(usize) -> T + Sync)) -> impl Fn(usize) -> T + Sync {
    let reference = super::backend::reference_mode();
    move |i| {
        let outer = IN_PART.replace(true);
        let result = super::backend::with_reference_mode(reference, || f(i));
        IN_PART.set(outer);
        result
    }
}

/// Runs `f` for each part in `parts` and combines the results two by two: the halves of a range, each
/// combined first. A thread holds few results at a time, and which are combined with which depends on
/// `parts` alone. Runs in order on this thread unless `parallel`.
///
/// # Errors
/// That of the first part that failed.
///
/// # Panics
/// If `parts` is empty.
pub fn reduce_parts<T: Send, E: Send>(
    parts: Range<usize>,
    parallel: bool,
    f: &(impl Fn(usize) -> Result<T, E> + Sync),
    combine: &(impl Fn(T, T) -> Result<T, E> + Sync),
) -> Result<T, E> {
    fn tree<T: Send, E: Send>(
        parts: Range<usize>,
        parallel: bool,
        f: &(impl Fn(usize) -> Result<T, E> + Sync),
        combine: &(impl Fn(T, T) -> Result<T, E> + Sync),
    ) -> Result<T, E> {
        if parts.len() == 1 {
            return f(parts.start);
        }
        let middle = parts.start + parts.len() / 2;
        let (left, right) = (parts.start..middle, middle..parts.end);
        let left = || tree(left, parallel, f, combine);
        let right = || tree(right, parallel, f, combine);
        let (left, right) = if parallel { rayon::join(left, right) } else { (left(), right()) };
        combine(left?, right?)
    }
    assert!(!parts.is_empty());
    if !parallel || parts.len() == 1 || IN_PART.get() {
        return tree(parts, false, f, combine);
    }
    tree(parts, true, &as_part(f), combine)
}

/// Runs `f` on pieces of `0..len` of `grain` each (the last may be shorter), in parallel unless this
/// thread already works on a part of a batch.
pub fn pieces(len: usize, grain: usize, f: impl Fn(Range<usize>) + Sync + Send) {
    let piece = |i: usize| i * grain..len.min((i + 1) * grain);
    let count = len.div_ceil(grain);
    if count <= 1 || IN_PART.get() {
        (0..count).map(piece).for_each(f);
    } else {
        (0..count).into_par_iter().map(piece).for_each(f);
    }
}

/// As [`pieces`], each with its own part of `out`: piece `i` gets `out[i * grain..]`.
pub fn pieces_mut<T: Send>(out: &mut [T], grain: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    if out.len() <= grain || IN_PART.get() {
        out.chunks_mut(grain.max(1)).enumerate().for_each(|(i, piece)| f(i, piece));
    } else {
        out.par_chunks_mut(grain).enumerate().for_each(|(i, piece)| f(i, piece));
    }
}

/// As [`pieces_mut`] over two outputs: piece `i` gets `a[i * grain_a..]` and `b[i * grain_b..]`.
pub fn pieces_mut2<A: Send, B: Send>(
    (a, grain_a): (&mut [A], usize),
    (b, grain_b): (&mut [B], usize),
    f: impl Fn(usize, &mut [A], &mut [B]) + Sync + Send,
) {
    let (grain_a, grain_b) = (grain_a.max(1), grain_b.max(1));
    if a.len() <= grain_a || IN_PART.get() {
        let pieces = a.chunks_mut(grain_a).zip(b.chunks_mut(grain_b));
        pieces.enumerate().for_each(|(i, (a, b))| f(i, a, b));
    } else {
        let pieces = a.par_chunks_mut(grain_a).zip(b.par_chunks_mut(grain_b));
        pieces.enumerate().for_each(|(i, (a, b))| f(i, a, b));
    }
}

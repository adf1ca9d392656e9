//! Everything of a transformer that is not a matrix product: one body per operation, generic over the ISA.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod backward;
pub(crate) mod elementwise;
pub(crate) mod exp;
pub(crate) mod integer_attention;
pub(crate) mod norm;
pub(crate) mod pages;
pub(crate) mod quantize;
pub(crate) mod rope;
#[cfg(target_arch = "x86_64")]
pub(crate) mod tile_attention;

// Macros and not functions that take closures: a closure is compiled without the caller's target features, and where it
// is not inlined every intrinsic in it becomes a call.

/// Puts `$body` in place of every 16 values `$v`, the rest padded with zeros: the same operations for the tail as for
/// the body.
macro_rules! map {
    ($isa:ident, $x:expr, |$v:ident| $body:expr) => {{
        let (whole, tail) = $x.as_chunks_mut::<{ $crate::isa::LANES }>();
        for lanes in whole {
            let $v = $isa.load(lanes);
            let y = $body;
            $isa.store(y, lanes);
        }
        if !tail.is_empty() {
            let mut lanes = [0.0; $crate::isa::LANES];
            lanes[..tail.len()].copy_from_slice(tail);
            let $v = $isa.load(&lanes);
            let y = $body;
            $isa.store(y, &mut lanes);
            tail.copy_from_slice(&lanes[..tail.len()]);
        }
    }};
}

/// [`map!`] with 16 values `$b` of a second slice beside: `x[i] = body(x[i], y[i])` on the shorter of the two lengths.
macro_rules! zip {
    ($isa:ident, $x:expr, $y:expr, |$a:ident, $b:ident| $body:expr) => {{
        let n = $x.len().min($y.len());
        let (xs, xt) = $x[..n].as_chunks_mut::<{ $crate::isa::LANES }>();
        let (ys, yt) = $y[..n].as_chunks::<{ $crate::isa::LANES }>();
        for (x, y) in xs.iter_mut().zip(ys) {
            let ($a, $b) = ($isa.load(x), $isa.load(y));
            let v = $body;
            $isa.store(v, x);
        }
        if !xt.is_empty() {
            let (mut x, mut y) = ([0.0; $crate::isa::LANES], [0.0; $crate::isa::LANES]);
            x[..xt.len()].copy_from_slice(xt);
            y[..yt.len()].copy_from_slice(yt);
            let ($a, $b) = ($isa.load(&x), $isa.load(&y));
            let v = $body;
            $isa.store(v, &mut x);
            xt.copy_from_slice(&x[..xt.len()]);
        }
    }};
}

/// As [`zip!`], of two slices into a third: `out[i] = body(x[i], y[i])`, all of one length.
macro_rules! zip_into {
    ($isa:ident, $out:expr, $x:expr, $y:expr, |$a:ident, $b:ident| $body:expr) => {{
        let (whole, tail) = $out.as_chunks_mut::<{ $crate::isa::LANES }>();
        let (xs, xt) = $x.as_chunks::<{ $crate::isa::LANES }>();
        let (ys, yt) = $y.as_chunks::<{ $crate::isa::LANES }>();
        for ((out, x), y) in whole.iter_mut().zip(xs).zip(ys) {
            let ($a, $b) = ($isa.load(x), $isa.load(y));
            let v = $body;
            $isa.store(v, out);
        }
        if !tail.is_empty() {
            let (mut x, mut y) = ([0.0; $crate::isa::LANES], [0.0; $crate::isa::LANES]);
            x[..xt.len()].copy_from_slice(xt);
            y[..yt.len()].copy_from_slice(yt);
            let ($a, $b) = ($isa.load(&x), $isa.load(&y));
            let v = $body;
            $isa.store(v, &mut x);
            tail.copy_from_slice(&x[..tail.len()]);
        }
    }};
}

/// Folds every 16 values `$v` into `$acc`, the rest padded with `$pad`, and adds the lanes up by the fixed tree.
macro_rules! reduce {
    ($isa:ident, $x:expr, $pad:expr, |$v:ident, $acc:ident| $body:expr) => {{
        let (whole, tail) = $x.as_chunks::<{ $crate::isa::LANES }>();
        let mut $acc = $isa.splat(0.0);
        for lanes in whole {
            let $v = $isa.load(lanes);
            $acc = $body;
        }
        if !tail.is_empty() {
            let mut lanes = [$pad; $crate::isa::LANES];
            lanes[..tail.len()].copy_from_slice(tail);
            let $v = $isa.load(&lanes);
            $acc = $body;
        }
        $isa.sum($acc)
    }};
}

pub(crate) use {map, reduce, zip, zip_into};

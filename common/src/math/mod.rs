//! The elementary functions in f64, in our own arithmetic.
//!
//! The system's mathematical library differs between machines, so nothing that affects a token may call it. These
//! functions use only additions, multiplications, divisions and fused multiply-adds in one written order, so they
//! return the same bits everywhere. The polynomials and reductions are those of fdlibm (Sun Microsystems, 1993); errors
//! stay below one unit in the last place.

mod exp;
mod ln;
mod pow;
mod trigonometry;

pub use exp::exp;
pub use ln::ln;
pub use pow::pow;
pub use trigonometry::{MAX_ANGLE, cos, sin};

#[cfg(test)]
mod testing {
    /// Distance of two finite numbers of one sign in units of the last place.
    pub(crate) fn ulps(a: f64, b: f64) -> u64 {
        if a == b {
            return 0;
        }
        assert_eq!(a.is_sign_negative(), b.is_sign_negative(), "{a} and {b}");
        assert!(a.is_finite() && b.is_finite(), "{a} and {b}");
        a.abs().to_bits().abs_diff(b.abs().to_bits())
    }
}

//! The one source of all kernels.

/// Headers first; nothing here includes anything.
pub(super) const SOURCE: &str = concat!(
    include_str!("../../math/math.cuh"),
    include_str!("../../entropy/logits.cuh"),
    include_str!("../../entropy/entropy.cu"),
    include_str!("../../sampling/pick.cu"),
    include_str!("../lanes.cuh"),
    include_str!("../stages.cuh"),
    include_str!("../elementary.cuh"),
    include_str!("../activation.cuh"),
    include_str!("../matmul.cu"),
    include_str!("../norm.cu"),
    include_str!("../rope.cu"),
    include_str!("../attention.cu"),
    include_str!("../bandwidth.cu"),
    include_str!("../training.cu"),
);

/// The number that the source defines as `name`, so that it is written once.
pub(crate) const fn define(name: &str) -> u32 {
    let (source, name) = (SOURCE.as_bytes(), name.as_bytes());
    let directive = b"#define ";
    let mut at = 0;
    while at < source.len() {
        let place = matches(source, at, directive);
        if place && matches(source, at + directive.len(), name) {
            let after = at + directive.len() + name.len();
            if source[after] == b' ' && source[after + 1].is_ascii_digit() {
                return number(source, after + 1);
            }
        }
        at += 1;
    }
    panic!("the kernels define no such number")
}

const fn matches(text: &[u8], at: usize, word: &[u8]) -> bool {
    let mut i = 0;
    while i < word.len() {
        if at + i >= text.len() || text[at + i] != word[i] {
            return false;
        }
        i += 1;
    }
    true
}

const fn number(text: &[u8], mut at: usize) -> u32 {
    let mut value = 0;
    while text[at].is_ascii_digit() {
        value = 10 * value + (text[at] - b'0') as u32;
        at += 1;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::define;
    use crate::kv::BLOCK_POSITIONS;

    #[test]
    fn numbers_of_the_source_are_those_of_this_crate() {
        assert_eq!(define("BLOCK_POSITIONS") as usize, BLOCK_POSITIONS);
        assert_eq!(define("LANES") as usize, crate::kernels::simd::LANES);
        assert_eq!(
            define("SUMMARY_COLUMNS") as usize,
            crate::entropy::SUMMARY_COLUMNS
        );
    }
}

//! Tensor types: how many bytes so many numbers take.

/// The one table. Numbers, names, blocks and bytes are those of ggml: `enum ggml_type` in `ggml.h`, `type_traits` in
/// `ggml.c`, the block structs in `ggml-common.h`.
macro_rules! types {
    ($($kind:ident = $number:literal, $name:literal, $block:literal in $bytes:literal;)*) => {
        /// How a tensor's numbers are stored. Displayed as ggml names it: `q4_K`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        #[expect(non_camel_case_types, reason = "the names that everybody knows them by")]
        pub enum TensorType {
            $(
                #[doc = concat!("`", $name, "`: ", $block, " numbers in ", $bytes, " bytes.")]
                $kind = $number,
            )*
        }

        impl TensorType {
            /// All that ggml knows, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The type with this number in a GGUF, unless it is unknown or was removed.
            pub fn of(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$kind),)*
                    _ => None,
                }
            }

            /// ggml's name for it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }

            /// Numbers in a block: a row is a whole number of blocks.
            pub fn block(self) -> u64 {
                match self {
                    $(Self::$kind => $block,)*
                }
            }

            /// Bytes of a block.
            pub fn block_bytes(self) -> u64 {
                match self {
                    $(Self::$kind => $bytes,)*
                }
            }
        }
    };
}

types! {
    F32 = 0, "f32", 1 in 4;
    F16 = 1, "f16", 1 in 2;
    Q4_0 = 2, "q4_0", 32 in 18;
    Q4_1 = 3, "q4_1", 32 in 20;
    Q5_0 = 6, "q5_0", 32 in 22;
    Q5_1 = 7, "q5_1", 32 in 24;
    Q8_0 = 8, "q8_0", 32 in 34;
    Q8_1 = 9, "q8_1", 32 in 36;
    Q2_K = 10, "q2_K", 256 in 84;
    Q3_K = 11, "q3_K", 256 in 110;
    Q4_K = 12, "q4_K", 256 in 144;
    Q5_K = 13, "q5_K", 256 in 176;
    Q6_K = 14, "q6_K", 256 in 210;
    Q8_K = 15, "q8_K", 256 in 292;
    IQ2_XXS = 16, "iq2_xxs", 256 in 66;
    IQ2_XS = 17, "iq2_xs", 256 in 74;
    IQ3_XXS = 18, "iq3_xxs", 256 in 98;
    IQ1_S = 19, "iq1_s", 256 in 50;
    IQ4_NL = 20, "iq4_nl", 32 in 18;
    IQ3_S = 21, "iq3_s", 256 in 110;
    IQ2_S = 22, "iq2_s", 256 in 82;
    IQ4_XS = 23, "iq4_xs", 256 in 136;
    I8 = 24, "i8", 1 in 1;
    I16 = 25, "i16", 1 in 2;
    I32 = 26, "i32", 1 in 4;
    I64 = 27, "i64", 1 in 8;
    F64 = 28, "f64", 1 in 8;
    IQ1_M = 29, "iq1_m", 256 in 56;
    BF16 = 30, "bf16", 1 in 2;
    TQ1_0 = 34, "tq1_0", 256 in 54;
    TQ2_0 = 35, "tq2_0", 256 in 66;
    MXFP4 = 39, "mxfp4", 32 in 17;
    NVFP4 = 40, "nvfp4", 64 in 36;
    Q1_0 = 41, "q1_0", 128 in 18;
    Q2_0 = 42, "q2_0", 64 in 18;
}

impl TensorType {
    /// The type that ggml, and llama-server's `--cache-type-k`, call so; case does not matter.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of so many numbers in rows of whole blocks; `None` if they are no whole number of blocks, or too many.
    pub fn bytes_of(self, numbers: u64) -> Option<u64> {
        let blocks = numbers.is_multiple_of(self.block()).then(|| numbers / self.block())?;
        blocks.checked_mul(self.block_bytes())
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Whether a GGUF could once hold tensors of this type; no engine of today loads them.
pub(super) fn was_removed(number: u32) -> bool {
    matches!(number, 4 | 5 | 31..=33 | 36..=38)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_a_type_or_a_removed_one_up_to_the_last() {
        let last = TensorType::ALL.iter().map(|kind| *kind as u32).max().unwrap();
        for number in 0..=last {
            let known = TensorType::of(number);
            assert_eq!(known.is_none(), was_removed(number), "{number}");
            assert!(known.is_none_or(|kind| kind as u32 == number && TensorType::ALL.contains(&kind)));
        }
        assert_eq!(TensorType::of(last + 1), None);
        assert_eq!(TensorType::of(u32::MAX), None);
    }

    #[test]
    fn a_type_is_found_by_its_name() {
        for kind in TensorType::ALL {
            assert_eq!(TensorType::named(kind.name()), Some(*kind));
        }
        assert_eq!(TensorType::named("Q4_K"), Some(TensorType::Q4_K));
        assert_eq!(TensorType::named("q4_K_M"), None);
    }

    #[test]
    fn numbers_come_in_whole_blocks() {
        assert_eq!(TensorType::Q4_1.bytes_of(576), Some(360));
        assert_eq!(TensorType::Q4_1.bytes_of(16), None);
        assert_eq!(TensorType::NVFP4.bytes_of(128), Some(72));
        assert_eq!(TensorType::F32.bytes_of(0), Some(0));
        assert_eq!(TensorType::F32.bytes_of(u64::MAX), None);
    }
}

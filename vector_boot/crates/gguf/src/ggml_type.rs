//! The tensor types of ggml: ids, names, block sizes.
//!
//! Source: ggml's `enum ggml_type`, `type_traits` and the block structs of `ggml-common.h`. Ids that
//! ggml has withdrawn (4, 5, 31 to 33, 36 to 38) have no entry: nobody can read such data any more.

macro_rules! ggml_types {
    ($($variant:ident = $id:literal, $name:literal, $values:literal values in $bytes:literal bytes;)*) => {
        /// How the values of a tensor are stored.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, non_camel_case_types)]
        #[repr(u8)]
        pub enum GgmlType { $($variant = $id,)* }

        impl GgmlType {
            /// Every type, in the order of its id.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The type with this id; none where ggml never had it or has withdrawn it.
            #[must_use]
            pub const fn from_id(id: u32) -> Option<Self> {
                match id { $($id => Some(Self::$variant),)* _ => None }
            }

            /// Its name as GGUF tools write it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Values that one block holds: the row length is a multiple of it.
            #[must_use]
            pub const fn block_values(self) -> u64 {
                match self { $(Self::$variant => $values,)* }
            }

            /// Bytes of one block.
            #[must_use]
            pub const fn block_bytes(self) -> u64 {
                match self { $(Self::$variant => $bytes,)* }
            }
        }
    };
}

ggml_types! {
    F32 = 0, "F32", 1 values in 4 bytes;
    F16 = 1, "F16", 1 values in 2 bytes;
    Q4_0 = 2, "Q4_0", 32 values in 18 bytes;
    Q4_1 = 3, "Q4_1", 32 values in 20 bytes;
    Q5_0 = 6, "Q5_0", 32 values in 22 bytes;
    Q5_1 = 7, "Q5_1", 32 values in 24 bytes;
    Q8_0 = 8, "Q8_0", 32 values in 34 bytes;
    Q8_1 = 9, "Q8_1", 32 values in 36 bytes;
    Q2_K = 10, "Q2_K", 256 values in 84 bytes;
    Q3_K = 11, "Q3_K", 256 values in 110 bytes;
    Q4_K = 12, "Q4_K", 256 values in 144 bytes;
    Q5_K = 13, "Q5_K", 256 values in 176 bytes;
    Q6_K = 14, "Q6_K", 256 values in 210 bytes;
    Q8_K = 15, "Q8_K", 256 values in 292 bytes;
    IQ2_XXS = 16, "IQ2_XXS", 256 values in 66 bytes;
    IQ2_XS = 17, "IQ2_XS", 256 values in 74 bytes;
    IQ3_XXS = 18, "IQ3_XXS", 256 values in 98 bytes;
    IQ1_S = 19, "IQ1_S", 256 values in 50 bytes;
    IQ4_NL = 20, "IQ4_NL", 32 values in 18 bytes;
    IQ3_S = 21, "IQ3_S", 256 values in 110 bytes;
    IQ2_S = 22, "IQ2_S", 256 values in 82 bytes;
    IQ4_XS = 23, "IQ4_XS", 256 values in 136 bytes;
    I8 = 24, "I8", 1 values in 1 bytes;
    I16 = 25, "I16", 1 values in 2 bytes;
    I32 = 26, "I32", 1 values in 4 bytes;
    I64 = 27, "I64", 1 values in 8 bytes;
    F64 = 28, "F64", 1 values in 8 bytes;
    IQ1_M = 29, "IQ1_M", 256 values in 56 bytes;
    BF16 = 30, "BF16", 1 values in 2 bytes;
    TQ1_0 = 34, "TQ1_0", 256 values in 54 bytes;
    TQ2_0 = 35, "TQ2_0", 256 values in 66 bytes;
    MXFP4 = 39, "MXFP4", 32 values in 17 bytes;
    NVFP4 = 40, "NVFP4", 64 values in 36 bytes;
    Q1_0 = 41, "Q1_0", 128 values in 18 bytes;
    Q2_0 = 42, "Q2_0", 64 values in 18 bytes;
}

impl GgmlType {
    /// Its id in the file.
    #[must_use]
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// The name that ggml gave an id before it withdrew it, and what took its place.
    #[must_use]
    pub const fn withdrawn(id: u32) -> Option<&'static str> {
        Some(match id {
            4 => "Q4_2, which ggml has withdrawn",
            5 => "Q4_3, which ggml has withdrawn",
            31 => "Q4_0_4_4, which ggml has withdrawn: convert to Q4_0",
            32 => "Q4_0_4_8, which ggml has withdrawn: convert to Q4_0",
            33 => "Q4_0_8_8, which ggml has withdrawn: convert to Q4_0",
            36 => "IQ4_NL_4_4, which ggml has withdrawn: convert to IQ4_NL",
            37 => "IQ4_NL_4_8, which ggml has withdrawn: convert to IQ4_NL",
            38 => "IQ4_NL_8_8, which ggml has withdrawn: convert to IQ4_NL",
            _ => return None,
        })
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

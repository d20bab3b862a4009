//! Tables of what a number means: each row is declared once, with its spelling and its sentence.

/// Declares an enum that travels as a u16: number, variant, spelling, and what a person reads. It has a variant
/// `Unknown`, which stands for the numbers of a later build.
macro_rules! spelled {
    (
        $(#[$doc:meta])*
        $enum:ident
        $($number:literal $name:ident $word:literal $says:literal;)*
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum $enum { $(#[doc = $says] $name = $number,)* }

        impl $enum {
            /// Every one, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The one with this number; `Unknown` for one of a later build.
            #[must_use]
            pub fn of(number: u16) -> Self {
                match number { $($number => Self::$name,)* _ => Self::Unknown }
            }

            /// Its spelling in answers, events and JSON.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// The one of this spelling.
            #[must_use]
            pub fn named(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$name),)* _ => None }
            }

            /// What it says to a person, as the rest of a sentence.
            #[must_use]
            pub fn says(self) -> &'static str {
                match self { $(Self::$name => $says,)* }
            }
        }

        impl serde::Serialize for $enum {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_u16(*self as u16)
            }
        }

        impl<'de> serde::Deserialize<'de> for $enum {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                <u16 as serde::Deserialize>::deserialize(from).map(Self::of)
            }
        }
    };
}

//! Metadata values, read where they lie.

use crate::cursor::Cursor;

/// The thirteen types of a metadata value; the number is its id in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
#[repr(u32)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    /// Every type, in the order of its id.
    pub const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// The type with this id.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// Its name in messages and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }

    /// Bytes of a value of this type; of a string and an array, of its shortest.
    #[must_use]
    pub const fn bytes_min(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }
}

/// A string of the file. The format asks for UTF-8, ggml does not check it, so neither do we.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<'a>(pub &'a [u8]);

impl<'a> Text<'a> {
    /// The bytes as they lie in the file.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The text, where it is UTF-8.
    #[must_use]
    pub fn to_str(self) -> Option<&'a str> {
        std::str::from_utf8(self.0).ok()
    }
}

/// One metadata value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    /// Any byte but zero is true, as in ggml.
    Bool(bool),
    String(Text<'a>),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// Its type.
    #[must_use]
    pub const fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The number, where it is an integer that is not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(n) => Some(n.into()),
            Self::U16(n) => Some(n.into()),
            Self::U32(n) => Some(n.into()),
            Self::U64(n) => Some(n),
            Self::I8(n) => n.try_into().ok(),
            Self::I16(n) => n.try_into().ok(),
            Self::I32(n) => n.try_into().ok(),
            Self::I64(n) => n.try_into().ok(),
            _ => None,
        }
    }

    /// The number, where it is a floating one.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(n) => Some(n.into()),
            Self::F64(n) => Some(n),
            _ => None,
        }
    }

    /// The text, where it is a string in UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&'a str> {
        match self {
            Self::String(text) => text.to_str(),
            _ => None,
        }
    }

    /// The array, where it is one.
    #[must_use]
    pub fn as_array(&self) -> Option<&Array<'a>> {
        match self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }

    /// Reads a value of this type; an array's elements are left where they are.
    ///
    /// `None` only where the bytes end, which [`crate::Index::parse`] has ruled out.
    pub(crate) fn read(cursor: &mut Cursor<'a>, value_type: ValueType) -> Option<Self> {
        fn scalar<const N: usize>(cursor: &mut Cursor<'_>) -> Option<[u8; N]> {
            cursor.bytes(N as u64, "value").ok()?.try_into().ok()
        }
        Some(match value_type {
            ValueType::U8 => Self::U8(u8::from_le_bytes(scalar(cursor)?)),
            ValueType::I8 => Self::I8(i8::from_le_bytes(scalar(cursor)?)),
            ValueType::U16 => Self::U16(u16::from_le_bytes(scalar(cursor)?)),
            ValueType::I16 => Self::I16(i16::from_le_bytes(scalar(cursor)?)),
            ValueType::U32 => Self::U32(u32::from_le_bytes(scalar(cursor)?)),
            ValueType::I32 => Self::I32(i32::from_le_bytes(scalar(cursor)?)),
            ValueType::F32 => Self::F32(f32::from_le_bytes(scalar(cursor)?)),
            ValueType::Bool => Self::Bool(scalar::<1>(cursor)? != [0]),
            ValueType::U64 => Self::U64(u64::from_le_bytes(scalar(cursor)?)),
            ValueType::I64 => Self::I64(i64::from_le_bytes(scalar(cursor)?)),
            ValueType::F64 => Self::F64(f64::from_le_bytes(scalar(cursor)?)),
            ValueType::String => Self::String(Text(cursor.text().ok()?)),
            ValueType::Array => {
                let (element, len) = cursor.array_head().ok()?;
                Self::Array(Array {
                    element,
                    len,
                    elements: cursor.clone(),
                })
            }
        })
    }
}

/// An array of the file; its elements are read as they are asked for.
#[derive(Debug, Clone)]
pub struct Array<'a> {
    element: ValueType,
    len: u64,
    /// Stands before the first element.
    elements: Cursor<'a>,
}

impl<'a> Array<'a> {
    /// The type of every element.
    #[must_use]
    pub const fn element(&self) -> ValueType {
        self.element
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in order. Costs no memory; an element is found by walking those before it.
    #[must_use]
    pub fn iter(&self) -> ArrayIter<'a> {
        ArrayIter {
            element: self.element,
            left: self.len,
            cursor: self.elements.clone(),
        }
    }
}

impl<'a> IntoIterator for &Array<'a> {
    type Item = Value<'a>;
    type IntoIter = ArrayIter<'a>;

    fn into_iter(self) -> ArrayIter<'a> {
        self.iter()
    }
}

impl PartialEq for Array<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.element == other.element && self.len == other.len && self.iter().eq(other.iter())
    }
}

/// The elements of an [`Array`].
#[derive(Debug, Clone)]
pub struct ArrayIter<'a> {
    element: ValueType,
    left: u64,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for ArrayIter<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        let mut ahead = self.cursor.clone();
        self.cursor.skip_value(self.element).ok()?;
        Value::read(&mut ahead, self.element)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        (0, Some(left))
    }
}

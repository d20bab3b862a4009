//! A position in the file that never leaves it.

use crate::value::ValueType;
use crate::{ARRAY_DEPTH_MAX, GgufError, HEADER_BYTES_MAX};

/// Reads little-endian fields one behind the other, each checked against the bytes left.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    /// The file's first bytes, at most [`HEADER_BYTES_MAX`].
    head: &'a [u8],
    /// Length of the whole file, at least `head.len()`.
    total: u64,
    /// Bytes read so far, at most `head.len()`.
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(head: &'a [u8], total: u64) -> Self {
        let cut = usize::try_from(HEADER_BYTES_MAX).unwrap_or(usize::MAX);
        let head = head.get(..cut).unwrap_or(head);
        Self {
            head,
            total: total.max(head.len() as u64),
            at: 0,
        }
    }

    /// The same reader at another place.
    pub(crate) fn at(&self, position: usize) -> Self {
        Self {
            at: position.min(self.head.len()),
            ..self.clone()
        }
    }

    pub(crate) fn position(&self) -> u64 {
        self.at as u64
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Bytes of the file behind the position.
    pub(crate) fn left(&self) -> u64 {
        self.total - self.at as u64
    }

    /// The next `len` bytes; `field` names them when they are not there.
    pub(crate) fn bytes(&mut self, len: u64, field: &'static str) -> Result<&'a [u8], GgufError> {
        let taken = usize::try_from(len)
            .ok()
            .and_then(|len| self.at.checked_add(len))
            .and_then(|end| self.head.get(self.at..end));
        match taken {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(self.missing(len, field)),
        }
    }

    fn missing(&self, len: u64, field: &'static str) -> GgufError {
        let left = self.left();
        if len > left {
            GgufError::new(
                field,
                self.position(),
                format_args!("needs {len} bytes"),
                format!("{left} bytes are left of {}", self.total),
            )
        } else {
            GgufError::new(
                field,
                self.position(),
                format_args!("needs {len} bytes"),
                format!(
                    "the header may take {HEADER_BYTES_MAX} bytes, of which {} were given",
                    self.head.len()
                ),
            )
        }
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N as u64, field)?);
        Ok(out)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, GgufError> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, GgufError> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// A value's type.
    pub(crate) fn value_type(&mut self) -> Result<ValueType, GgufError> {
        let offset = self.position();
        let id = self.u32("value type")?;
        ValueType::from_id(id)
            .ok_or_else(|| GgufError::new("value type", offset, id, "types are 0 to 12"))
    }

    /// A string's bytes behind its length.
    pub(crate) fn text(&mut self) -> Result<&'a [u8], GgufError> {
        let len = self.u64("string length")?;
        self.bytes(len, "string")
    }

    /// An array's element type and length, the length bounded by the bytes left.
    pub(crate) fn array_head(&mut self) -> Result<(ValueType, u64), GgufError> {
        let element = self.value_type()?;
        let offset = self.position();
        let len = self.u64("array length")?;
        let most = self.left() / element.bytes_min();
        if len > most {
            return Err(GgufError::new(
                "array length",
                offset,
                len,
                format!("the bytes left hold {most} elements"),
            ));
        }
        Ok((element, len))
    }

    /// Steps over a value, however deep: arrays wait on a stack of their remaining lengths.
    pub(crate) fn skip_value(&mut self, value_type: ValueType) -> Result<(), GgufError> {
        match value_type {
            ValueType::String => self.text().map(drop),
            ValueType::Array => self.skip_array(),
            scalar => self.bytes(scalar.bytes_min(), "value").map(drop),
        }
    }

    fn skip_array(&mut self) -> Result<(), GgufError> {
        // Elements still to come of each open array of arrays; the innermost is the last one.
        let mut open = [0u64; ARRAY_DEPTH_MAX as usize];
        let mut depth = 0usize;
        loop {
            let offset = self.position();
            let Some(remaining) = open.get_mut(depth) else {
                return Err(GgufError::new(
                    "array nesting",
                    offset,
                    depth + 1,
                    format!("at most {ARRAY_DEPTH_MAX} deep"),
                ));
            };
            depth += 1;
            let (element, len) = self.array_head()?;
            if element == ValueType::Array {
                *remaining = len;
            } else {
                *remaining = 0;
                self.skip_flat(element, len)?;
            }
            // Close what is complete; an array that has elements left opens the next of them.
            loop {
                let Some(remaining) = depth.checked_sub(1).and_then(|last| open.get_mut(last))
                else {
                    return Ok(());
                };
                if let Some(fewer) = remaining.checked_sub(1) {
                    *remaining = fewer;
                    break;
                }
                depth -= 1;
            }
        }
    }

    fn skip_flat(&mut self, element: ValueType, len: u64) -> Result<(), GgufError> {
        if element == ValueType::String {
            for _ in 0..len {
                self.text()?;
            }
            return Ok(());
        }
        // `array_head` has bounded the product by the bytes left.
        self.bytes(len.saturating_mul(element.bytes_min()), "array")
            .map(drop)
    }
}

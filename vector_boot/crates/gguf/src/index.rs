//! The index: one pass over the header, then lookups that cannot fail.

use crate::cursor::Cursor;
use crate::error::quoted;
use crate::value::{Value, ValueType};
use crate::{
    ALIGNMENT_DEFAULT, ALIGNMENT_MAX, ALIGNMENT_MIN, DIMS_MAX, GgmlType, GgufError, KEY_BYTES_MAX,
    KEYS_MAX, MAGIC, NAME_BYTES_MAX, TENSORS_MAX,
};
use std::cmp::Ordering;

/// Heap bytes that the index holds a tensor: its entry and its place in the order of names.
pub const TENSOR_HEAP_BYTES_MAX: usize = 64;
/// Heap bytes that the index holds a key: its position and its place in the order of keys.
pub const KEY_HEAP_BYTES_MAX: usize = 16;

const _: () = assert!(size_of::<Entry>() + size_of::<u32>() <= TENSOR_HEAP_BYTES_MAX);
const _: () = assert!(2 * size_of::<u32>() <= KEY_HEAP_BYTES_MAX);

/// Shortest key-value pair: a length, no key, a type, one byte.
const PAIR_BYTES_MIN: u64 = 13;
/// Shortest tensor row: a length, no name, no dimension, a type, an offset.
const ROW_BYTES_MIN: u64 = 24;
/// The one key that the format itself reads.
const ALIGNMENT_KEY: &[u8] = b"general.alignment";

/// A checked GGUF file: every value that it hands out lies inside the file.
#[derive(Debug)]
pub struct Index<'a> {
    file: &'a [u8],
    /// Stands at the header's end.
    header: Cursor<'a>,
    version: u32,
    alignment: u32,
    data_offset: u64,
    /// Where each key-value pair begins, in the file's order.
    pairs: Vec<u32>,
    /// Indices of `pairs`, sorted by key.
    pairs_by_key: Vec<u32>,
    /// In the file's order.
    entries: Vec<Entry>,
    /// Indices of `entries`, sorted by name.
    entries_by_name: Vec<u32>,
}

/// What the index keeps of a tensor; its name stays in the file.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Dimensions, the unused ones 1.
    ne: [u64; DIMS_MAX as usize],
    /// From the beginning of the tensor data.
    offset: u64,
    /// Where the tensor's row begins.
    row: u32,
    ggml_type: GgmlType,
    dims: u8,
}

/// One tensor of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tensor<'a> {
    /// Its name, at most [`NAME_BYTES_MAX`] bytes.
    pub name: &'a str,
    /// How its values are stored.
    pub ggml_type: GgmlType,
    ne: [u64; DIMS_MAX as usize],
    dims: u8,
    /// Where its data begins, in bytes from the file's beginning.
    pub offset: u64,
    /// Bytes of its data.
    pub bytes: u64,
}

impl Tensor<'_> {
    /// Its dimensions in GGUF's order: the row length first.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        self.ne.get(..usize::from(self.dims)).unwrap_or(&self.ne)
    }

    /// How many values it holds.
    #[must_use]
    pub fn values(&self) -> u64 {
        self.ne
            .iter()
            .fold(1, |product, n| product.saturating_mul(*n))
    }
}

impl<'a> Index<'a> {
    /// Reads and checks a whole file (or the tensor window of a package).
    ///
    /// Time is n log n in keys and tensors and otherwise linear in the header; tensor data is not touched.
    ///
    /// # Errors
    /// [`GgufError`] names the first rule that the file breaks.
    pub fn parse(file: &'a [u8]) -> Result<Self, GgufError> {
        Self::parse_head(file, file.len() as u64)
    }

    /// Reads and checks a file of `total` bytes of which `head` are the first; enough are all, or
    /// [`crate::HEADER_BYTES_MAX`]. For readers that cannot map the whole file.
    ///
    /// # Errors
    /// As [`Self::parse`]; also where the header does not end within `head`.
    pub fn parse_head(head: &'a [u8], total: u64) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(head, total);
        let (version, tensor_count, pair_count) = read_counts(&mut cursor)?;
        let (pairs, pairs_by_key) = read_pairs(&mut cursor, pair_count)?;
        let mut index = Self {
            file: head,
            header: cursor,
            version,
            alignment: ALIGNMENT_DEFAULT,
            data_offset: 0,
            pairs,
            pairs_by_key,
            entries: Vec::new(),
            entries_by_name: Vec::new(),
        };
        index.alignment = index.read_alignment()?;
        index.read_tensors(tensor_count)?;
        Ok(index)
    }

    /// The format's version, 2 or 3 (their layouts are the same).
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// What tensor offsets are multiples of.
    #[must_use]
    pub const fn alignment(&self) -> u32 {
        self.alignment
    }

    /// Where the tensor data begins; behind the file's end where there are no tensors and no padding.
    #[must_use]
    pub const fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// Length of the whole file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.header.total()
    }

    /// How many tensors there are.
    #[must_use]
    pub fn tensor_count(&self) -> usize {
        self.entries.len()
    }

    /// How many key-value pairs there are.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.pairs.len()
    }

    /// The tensors in the file's order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'a>> + '_ {
        self.entries.iter().map(|entry| self.tensor_of(entry))
    }

    /// The tensor at this place in the file's order.
    #[must_use]
    pub fn tensor_at(&self, place: usize) -> Option<Tensor<'a>> {
        self.entries.get(place).map(|entry| self.tensor_of(entry))
    }

    /// The tensor with this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<Tensor<'a>> {
        self.tensor_at(self.place_of(name)?)
    }

    /// The place in the file's order of the tensor with this name.
    #[must_use]
    pub fn place_of(&self, name: &str) -> Option<usize> {
        let found = self
            .entries_by_name
            .binary_search_by(|place| self.name_at(*place).cmp(name.as_bytes()))
            .ok()?;
        // There are at most `TENSORS_MAX` of them.
        Some(*self.entries_by_name.get(found)? as usize)
    }

    /// A tensor's data. `None` only where the index was made by [`Self::parse_head`] from a head that
    /// does not hold it.
    #[must_use]
    pub fn data(&self, tensor: &Tensor<'_>) -> Option<&'a [u8]> {
        let start = usize::try_from(tensor.offset).ok()?;
        let end = start.checked_add(usize::try_from(tensor.bytes).ok()?)?;
        self.file.get(start..end)
    }

    /// The metadata in the file's order.
    pub fn metadata(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> + '_ {
        // Each pair was read in `parse`, so none is left out here.
        self.pairs.iter().filter_map(|pair| self.pair_at(*pair))
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        let found = self
            .pairs_by_key
            .binary_search_by(|place| self.key_at(*place).cmp(key.as_bytes()))
            .ok()?;
        let pair = self.pairs.get(*self.pairs_by_key.get(found)? as usize)?;
        Some(self.pair_at(*pair)?.1)
    }

    fn pair_at(&self, pair: u32) -> Option<(&'a str, Value<'a>)> {
        let mut cursor = self.header.at(pair as usize);
        let key = std::str::from_utf8(cursor.text().ok()?).ok()?;
        let value_type = cursor.value_type().ok()?;
        Some((key, Value::read(&mut cursor, value_type)?))
    }

    fn key_at(&self, place: u32) -> &'a [u8] {
        text_of(&self.header, self.pairs.get(place as usize))
    }

    fn name_at(&self, place: u32) -> &'a [u8] {
        name_of(&self.header, &self.entries, place)
    }

    fn tensor_of(&self, entry: &Entry) -> Tensor<'a> {
        let name = text_of(&self.header, Some(&entry.row));
        Tensor {
            // Checked when the row was read.
            name: std::str::from_utf8(name).unwrap_or_default(),
            ggml_type: entry.ggml_type,
            ne: entry.ne,
            dims: entry.dims,
            offset: self.data_offset.saturating_add(entry.offset),
            // `read_row` has refused whatever overflows.
            bytes: entry.bytes().unwrap_or(u64::MAX),
        }
    }

    fn read_alignment(&self) -> Result<u32, GgufError> {
        let Ok(found) = self
            .pairs_by_key
            .binary_search_by(|place| self.key_at(*place).cmp(ALIGNMENT_KEY))
        else {
            return Ok(ALIGNMENT_DEFAULT);
        };
        let pair = self
            .pairs_by_key
            .get(found)
            .and_then(|place| self.pairs.get(*place as usize));
        let mut cursor = self.header.at(pair.map_or(0, |pair| *pair as usize));
        cursor.text()?;
        let offset = cursor.position();
        let value_type = cursor.value_type()?;
        if value_type != ValueType::U32 {
            return Err(GgufError::new(
                "general.alignment",
                offset,
                format_args!("type {}", value_type.name()),
                "its type is u32",
            ));
        }
        let offset = cursor.position();
        let alignment = cursor.u32("general.alignment")?;
        if !alignment.is_power_of_two() || !(ALIGNMENT_MIN..=ALIGNMENT_MAX).contains(&alignment) {
            return Err(GgufError::new(
                "general.alignment",
                offset,
                alignment,
                format!("a power of two from {ALIGNMENT_MIN} to {ALIGNMENT_MAX}"),
            ));
        }
        Ok(alignment)
    }

    fn read_tensors(&mut self, count: u64) -> Result<(), GgufError> {
        reserve(&mut self.entries, count, "tensor count")?;
        for _ in 0..count {
            let entry = read_row(&mut self.header, self.alignment)?;
            self.entries.push(entry);
        }
        // At most the header's limit plus the alignment, so this cannot overflow.
        self.data_offset = self
            .header
            .position()
            .next_multiple_of(u64::from(self.alignment));
        self.check_spans(count)?;
        self.check_names()
    }

    /// Every tensor's data lies inside the file, and no two share a byte.
    fn check_spans(&mut self, count: u64) -> Result<(), GgufError> {
        let total = self.header.total();
        for entry in &self.entries {
            if entry.end(self.data_offset).is_none_or(|end| end > total) {
                return Err(self.span_error(entry, format!("the file ends at byte {total}")));
            }
        }
        let mut order = Vec::new();
        reserve(&mut order, count, "tensor count")?;
        order.extend(0..self.entries.len() as u32);
        let entries = &self.entries;
        let begin = |place: &u32| {
            entries
                .get(*place as usize)
                .map_or((0, 0), |e| (e.offset, e.row))
        };
        order.sort_unstable_by_key(begin);
        for pair in order.windows(2) {
            let [before, after] = pair else { continue };
            let (Some(before), Some(after)) =
                (entries.get(*before as usize), entries.get(*after as usize))
            else {
                continue;
            };
            if before.end(0).is_none_or(|end| end > after.offset) {
                let other = quoted(text_of(&self.header, Some(&before.row)));
                return Err(self.span_error(after, format!("shares bytes with tensor {other}")));
            }
        }
        self.entries_by_name = order;
        Ok(())
    }

    /// Sorts by name, which finds the duplicates beside each other.
    fn check_names(&mut self) -> Result<(), GgufError> {
        let (header, entries) = (&self.header, &self.entries);
        self.entries_by_name.sort_unstable_by(|a, b| {
            by_text(
                name_of(header, entries, *a),
                *a,
                name_of(header, entries, *b),
                *b,
            )
        });
        for pair in self.entries_by_name.windows(2) {
            let [before, after] = pair else { continue };
            let name = self.name_at(*after);
            if self.name_at(*before) == name {
                let row = entries
                    .get(*after as usize)
                    .map_or(0, |entry| u64::from(entry.row));
                return Err(GgufError::new(
                    "tensor name",
                    row,
                    "appears twice",
                    "names are unique",
                )
                .of(name));
            }
        }
        Ok(())
    }

    fn span_error(&self, entry: &Entry, limit: String) -> GgufError {
        let mut cursor = self.header.at(entry.row as usize);
        let name = cursor.text().unwrap_or_default();
        // The offset stands behind n_dims, the dimensions and the type.
        let field = cursor.position() + 4 + 8 * u64::from(entry.dims) + 4;
        let begin = self.data_offset.saturating_add(entry.offset);
        let bytes = entry.bytes().unwrap_or(u64::MAX);
        GgufError::new(
            "tensor span",
            field,
            format_args!("{bytes} bytes from byte {begin}"),
            limit,
        )
        .of(name)
    }
}

impl Entry {
    /// Bytes of the data; `None` where they overflow.
    fn bytes(&self) -> Option<u64> {
        let values = self
            .ne
            .iter()
            .try_fold(1u64, |product, n| product.checked_mul(*n))?;
        (values / self.ggml_type.block_values()).checked_mul(self.ggml_type.block_bytes())
    }

    /// Where the data ends, counted from `base` before the tensor data.
    fn end(&self, base: u64) -> Option<u64> {
        base.checked_add(self.offset)?.checked_add(self.bytes()?)
    }
}

/// Magic, version and the two counts, each bounded by what can follow.
fn read_counts(cursor: &mut Cursor<'_>) -> Result<(u32, u64, u64), GgufError> {
    let magic = cursor.bytes(4, "magic")?;
    if magic != MAGIC {
        return Err(GgufError::new(
            "magic",
            0,
            quoted(magic),
            "a GGUF file begins with GGUF",
        ));
    }
    let version = cursor.u32("version")?;
    let refusal = match version {
        2 | 3 => None,
        1 => Some("GGUF v1 is not supported: convert the file to v3"),
        0 => Some("versions are 2 and 3"),
        // gguf.cpp: the low half of a small big-endian number is zero when read as little-endian.
        _ if version & 0xffff == 0 => {
            Some("big-endian GGUF is not supported: convert the file to little-endian")
        }
        _ => Some("versions are 2 and 3"),
    };
    if let Some(limit) = refusal {
        return Err(GgufError::new("version", 4, version, limit));
    }
    let tensors = cursor.u64("tensor count")?;
    let pairs = cursor.u64("key count")?;
    for (field, offset, count, most) in [
        ("tensor count", 8, tensors, TENSORS_MAX),
        ("key count", 16, pairs, KEYS_MAX),
    ] {
        if count > most {
            return Err(GgufError::new(
                field,
                offset,
                count,
                format!("at most {most}"),
            ));
        }
    }
    // Both are small now, so neither product overflows.
    let left = cursor.left();
    if pairs * PAIR_BYTES_MIN > left {
        return Err(GgufError::new(
            "key count",
            16,
            pairs,
            format!("the {left} bytes left hold {}", left / PAIR_BYTES_MIN),
        ));
    }
    let left = left - pairs * PAIR_BYTES_MIN;
    if tensors * ROW_BYTES_MIN > left {
        return Err(GgufError::new(
            "tensor count",
            8,
            tensors,
            format!(
                "the {left} bytes that the keys leave hold {}",
                left / ROW_BYTES_MIN
            ),
        ));
    }
    Ok((version, tensors, pairs))
}

/// Positions of the key-value pairs, and their order by key.
fn read_pairs(cursor: &mut Cursor<'_>, count: u64) -> Result<(Vec<u32>, Vec<u32>), GgufError> {
    let (mut pairs, mut order) = (Vec::new(), Vec::new());
    reserve(&mut pairs, count, "key count")?;
    reserve(&mut order, count, "key count")?;
    for place in 0..count as u32 {
        // The header is under 2^32 bytes.
        pairs.push(cursor.position() as u32);
        order.push(place);
        let key = read_key(cursor)?;
        let value_type = cursor.value_type().map_err(|e| e.of(key))?;
        cursor.skip_value(value_type).map_err(|e| e.of(key))?;
    }
    let key_at = |place: u32| text_of(cursor, pairs.get(place as usize));
    order.sort_unstable_by(|a, b| by_text(key_at(*a), *a, key_at(*b), *b));
    for pair in order.windows(2) {
        let [before, after] = pair else { continue };
        let key = key_at(*after);
        if key_at(*before) == key {
            let offset = pairs.get(*after as usize).copied().map_or(0, u64::from);
            return Err(GgufError::new("key", offset, "appears twice", "keys are unique").of(key));
        }
    }
    Ok((pairs, order))
}

fn read_key<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], GgufError> {
    let offset = cursor.position();
    let len = cursor.u64("key length")?;
    if !(1..=KEY_BYTES_MAX).contains(&len) {
        return Err(GgufError::new(
            "key length",
            offset,
            len,
            format!("1 to {KEY_BYTES_MAX} bytes"),
        ));
    }
    let at = cursor.position();
    let key = cursor.bytes(len, "key")?;
    match key.iter().position(|byte| !byte.is_ascii()) {
        Some(place) => {
            let byte = key.get(place).copied().unwrap_or_default();
            Err(GgufError::new(
                "key",
                at + place as u64,
                format_args!("byte {byte:#04x}"),
                "keys are ASCII",
            )
            .of(key))
        }
        None => Ok(key),
    }
}

/// One row of the tensor table; its span is checked when the table's end is known.
fn read_row(cursor: &mut Cursor<'_>, alignment: u32) -> Result<Entry, GgufError> {
    // The header is under 2^32 bytes.
    let row = cursor.position() as u32;
    let name = read_name(cursor)?;
    read_row_behind_name(cursor, alignment, row).map_err(|e| e.of(name))
}

fn read_name<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], GgufError> {
    let offset = cursor.position();
    let len = cursor.u64("tensor name length")?;
    if len > NAME_BYTES_MAX {
        return Err(GgufError::new(
            "tensor name length",
            offset,
            len,
            format!("at most {NAME_BYTES_MAX} bytes"),
        ));
    }
    let at = cursor.position();
    let name = cursor.bytes(len, "tensor name")?;
    let broken = match std::str::from_utf8(name) {
        Err(error) => Some((error.valid_up_to(), "names are UTF-8")),
        Ok(_) => name
            .iter()
            .position(|byte| *byte == 0)
            .map(|place| (place, "names hold no NUL")),
    };
    match broken {
        Some((place, limit)) => {
            let byte = name.get(place).copied().unwrap_or_default();
            Err(GgufError::new(
                "tensor name",
                at + place as u64,
                format_args!("byte {byte:#04x}"),
                limit,
            )
            .of(name))
        }
        None => Ok(name),
    }
}

fn read_row_behind_name(
    cursor: &mut Cursor<'_>,
    alignment: u32,
    row: u32,
) -> Result<Entry, GgufError> {
    let dims_at = cursor.position();
    let dims = cursor.u32("n_dims")?;
    if !(1..=DIMS_MAX).contains(&dims) {
        return Err(GgufError::new(
            "n_dims",
            dims_at,
            dims,
            format!("1 to {DIMS_MAX}"),
        ));
    }
    let mut ne = [1u64; DIMS_MAX as usize];
    let mut values = 1u64;
    for n in ne.iter_mut().take(dims as usize) {
        let offset = cursor.position();
        *n = cursor.u64("dimension")?;
        // ggml counts in i64.
        let product = values
            .checked_mul(*n)
            .filter(|product| i64::try_from(*product).is_ok());
        values = match product {
            Some(0) => return Err(GgufError::new("dimension", offset, 0, "at least 1")),
            Some(product) => product,
            None => {
                return Err(GgufError::new(
                    "dimension",
                    offset,
                    *n,
                    format!("{values} values times it must stay below 2^63"),
                ));
            }
        };
    }
    let type_at = cursor.position();
    let id = cursor.u32("tensor type")?;
    let Some(ggml_type) = GgmlType::from_id(id) else {
        return Err(match GgmlType::withdrawn(id) {
            Some(limit) => GgufError::new("tensor type", type_at, id, limit),
            None => GgufError::new("tensor type", type_at, id, "not a type of ggml"),
        });
    };
    let offset_at = cursor.position();
    let offset = cursor.u64("tensor offset")?;
    // `dims` is at most four.
    let entry = Entry {
        ne,
        offset,
        row,
        ggml_type,
        dims: dims as u8,
    };
    let [row_values, ..] = ne;
    if row_values % ggml_type.block_values() != 0 {
        return Err(GgufError::new(
            "row length",
            dims_at + 4,
            row_values,
            format!("a multiple of {} for {ggml_type}", ggml_type.block_values()),
        ));
    }
    if entry.bytes().is_none() {
        return Err(GgufError::new(
            "tensor size",
            dims_at + 4,
            format_args!("{values} values of {ggml_type}"),
            "its bytes must stay below 2^64",
        ));
    }
    if offset % u64::from(alignment) != 0 {
        return Err(GgufError::new(
            "tensor offset",
            offset_at,
            offset,
            format!("a multiple of the alignment {alignment}"),
        ));
    }
    Ok(entry)
}

/// The string at a position that was read before.
fn text_of<'a>(header: &Cursor<'a>, position: Option<&u32>) -> &'a [u8] {
    position
        .and_then(|position| header.at(*position as usize).text().ok())
        .unwrap_or_default()
}

fn name_of<'a>(header: &Cursor<'a>, entries: &[Entry], place: u32) -> &'a [u8] {
    text_of(header, entries.get(place as usize).map(|entry| &entry.row))
}

/// By text, then by place, so that the later of two equals comes second.
fn by_text(a: &[u8], place_a: u32, b: &[u8], place_b: u32) -> Ordering {
    a.cmp(b).then(place_a.cmp(&place_b))
}

/// Reserves exactly `count` places, which the caller has bounded.
fn reserve<T>(list: &mut Vec<T>, count: u64, field: &'static str) -> Result<(), GgufError> {
    usize::try_from(count)
        .ok()
        .and_then(|count| list.try_reserve_exact(count).ok())
        .ok_or_else(|| GgufError::new(field, 0, count, "no memory for its index"))
}

//! An open model: the mapping of its file, and the index that borrows from it.
//!
//! Owns: the one self-reference of the house, and what is a package and what a model. Never here: the table of
//! handles. Start with [`Model`].

use gguf::{Index, Tensor};
use std::ffi::c_char;
use std::path::Path;
use sys::mapping::Mapping;

use super::NeuralTensorInfo;
use super::failure::Failure;

/// How a package begins, whatever its version says next (`rts` judges that).
const PACKAGE_MAGIC: &[u8] = b"RTS";

/// A mapped GGUF file, or the one inside a mapped package.
#[derive(Debug)]
pub struct Model {
    /// Borrows from `mapping`, so it never leaves with its own lifetime; declared first, so dropped first.
    index: Index<'static>,
    /// Never looked at again, but its drop unmaps.
    _mapping: Mapping,
}

impl Model {
    /// Maps the file and checks its index.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let mapping = Mapping::open_file(path).map_err(|error| Failure::io(path, &error))?;
        Self::over(mapping, path)
    }

    fn over(mapping: Mapping, path: &Path) -> Result<Self, Failure> {
        let bytes: &[u8] = &mapping;
        // SAFETY: a mapping's pages stay where they are until its drop, also when the value that owns it moves. The
        // slice is seen by `index` alone, which lies in the same value, is dropped before the mapping, and is lent
        // out (`Model::index`) for no longer than that value.
        let bytes: &'static [u8] =
            unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) };
        let shown = path.display();
        let window = if bytes.starts_with(PACKAGE_MAGIC) {
            let package = rts::Package::parse(bytes);
            package
                .map_err(|error| Failure::format(&shown, &error))?
                .tensor_bytes()
        } else {
            bytes
        };
        let index = Index::parse(window).map_err(|error| Failure::format(&shown, &error))?;
        Ok(Self {
            index,
            _mapping: mapping,
        })
    }

    /// The system model that every build carries.
    pub fn of_default() -> Result<Self, Failure> {
        let memory = sys::memfd::sealed("vectorland.gguf", &neural::default_model());
        let mapping = memory.and_then(|memory| Mapping::of_whole_fd(&memory));
        let mapping = mapping.map_err(|error| Failure::machine("default model", &error))?;
        Self::over(mapping, Path::new("default model"))
    }

    /// The index, for as long as the model is held.
    pub fn index(&self) -> &Index<'_> {
        &self.index
    }

    /// The tensor at this place.
    pub fn tensor(&self, place: u64) -> Result<Tensor<'_>, Failure> {
        let found = usize::try_from(place)
            .ok()
            .and_then(|place| self.index.tensor_at(place));
        found.ok_or_else(|| Failure::not_found("tensor", place))
    }

    /// A tensor's blocks.
    pub fn data(&self, tensor: &Tensor<'_>) -> Result<&[u8], Failure> {
        // Absent only where an index was made from a file's head, and this one was not.
        let data = self.index.data(tensor);
        data.ok_or_else(|| Failure::not_found("data of tensor", tensor.name))
    }
}

/// A tensor as C sees it.
pub fn row(tensor: &Tensor<'_>) -> NeuralTensorInfo {
    let mut shape = [1; 4];
    for (to, from) in shape.iter_mut().zip(tensor.shape()) {
        *to = *from;
    }
    let of = tensor.ggml_type;
    NeuralTensorInfo {
        bytes: tensor.bytes,
        values: tensor.values(),
        shape,
        // At most 4, 256, 292 and 64: each fits.
        dims: tensor.shape().len() as u32,
        type_id: of.id(),
        block_values: of.block_values() as u32,
        block_bytes: of.block_bytes() as u32,
        name_len: tensor.name.len() as u32,
        type_name: padded(of.name()),
        name: padded(tensor.name),
    }
}

/// Text in a field that is longer than every text that the format allows.
fn padded<const N: usize>(text: &str) -> [c_char; N] {
    const {
        assert!(N > 8);
    }
    let mut field = [0; N];
    for (to, from) in field.iter_mut().zip(text.bytes()) {
        // The same bits: C's char has a sign on some processors.
        *to = from as c_char;
    }
    field
}

// A name in its field keeps at least one NUL behind it.
const _: () = assert!(gguf::NAME_BYTES_MAX < 72);

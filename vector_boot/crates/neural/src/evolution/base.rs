//! The base: the package's model, and the default model for what that lacks. Never written.

use super::blocks::Blocks;
use super::generation::{POLICY, POLICY_VALUES};
use crate::dequant::dequantize;
use gguf::{GgmlType, GgufError, Index};

/// BLAKE3's context of a base's hash.
const CONTEXT: &str = "vector_boot evolution base v1";

/// A tensor of the base.
#[derive(Debug, Clone, Copy)]
pub struct BaseTensor<'m> {
    /// How its values are stored.
    pub ggml_type: GgmlType,
    /// Its bytes.
    pub data: &'m [u8],
}

/// The models under all generations.
#[derive(Debug)]
pub struct Base<'m> {
    packaged: Option<Index<'m>>,
    system: Index<'m>,
    /// Whether the policy is the package's: every tensor of it that the package has can be used.
    policy_packaged: bool,
    blake3: [u8; 32],
}

impl<'m> Base<'m> {
    /// Reads the package's model, if there is one, and the default one (see [`crate::default_model`]).
    /// `identity` is a hash of the package where it has one: without it two models with the same table count as
    /// the same base, and only the ranges that the log changes are compared.
    ///
    /// # Errors
    /// As [`Index::parse`].
    pub fn new(
        packaged: Option<&'m [u8]>,
        system: &'m [u8],
        identity: Option<[u8; 32]>,
    ) -> Result<Self, GgufError> {
        let packaged = packaged.map(Index::parse).transpose()?;
        let policy_packaged = packaged.as_ref().is_some_and(has_policy);
        let mut this = Self {
            packaged,
            system: Index::parse(system)?,
            policy_packaged,
            blake3: [0; 32],
        };
        this.blake3 = this.hash(identity);
        Ok(this)
    }

    /// BLAKE3 over what the base is told by.
    #[must_use]
    pub fn blake3(&self) -> [u8; 32] {
        self.blake3
    }

    /// The tensor of exactly this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<BaseTensor<'m>> {
        let of_policy = POLICY.iter().any(|(of, _)| *of == name);
        let packaged = self.packaged.as_ref();
        let packaged = packaged.filter(|_| !of_policy || self.policy_packaged);
        packaged
            .and_then(|index| find(index, name))
            .or_else(|| find(&self.system, name))
    }

    /// The policy's values with the changed bytes of `read` in the place of the base's.
    pub fn policy(
        &self,
        mut read: impl FnMut(&str, &[u8]) -> Vec<u8>,
    ) -> Box<[f32; POLICY_VALUES]> {
        let mut values = Box::new([0.0; POLICY_VALUES]);
        let mut rest: &mut [f32] = &mut values[..];
        for (name, count) in POLICY {
            let Some((part, after)) = rest.split_at_mut_checked(count) else {
                break;
            };
            rest = after;
            if let Some(tensor) = self.tensor(name) {
                let bytes = read(name, tensor.data);
                // A tensor of another length is not in the base: see `has_policy`.
                let _ = dequantize(tensor.ggml_type, &bytes, part);
            }
        }
        values
    }

    fn hash(&self, identity: Option<[u8; 32]>) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&identity.unwrap_or_default());
        for index in self.packaged.iter().chain([&self.system]) {
            for tensor in index.tensors() {
                hasher.update(&(tensor.name.len() as u64).to_le_bytes());
                hasher.update(tensor.name.as_bytes());
                hasher.update(&tensor.ggml_type.id().to_le_bytes());
                hasher.update(&tensor.offset.to_le_bytes());
                hasher.update(&tensor.bytes.to_le_bytes());
            }
        }
        for (name, _) in POLICY {
            hasher.update(self.tensor(name).map_or(&[], |tensor| tensor.data));
        }
        hasher.finalize().into()
    }
}

/// Whether what a model has of the policy is F32, of the right length and finite; one that is not makes all of it
/// the default's, as in PID 1.
fn has_policy(index: &Index<'_>) -> bool {
    POLICY.iter().all(|(name, values)| {
        find(index, name).is_none_or(|tensor| {
            let blocks = Blocks::of(tensor.ggml_type);
            tensor.ggml_type == GgmlType::F32
                && tensor.data.len() == 4 * values
                && blocks.is_some_and(|blocks| blocks.are_finite(tensor.data))
        })
    })
}

fn find<'m>(index: &Index<'m>, name: &str) -> Option<BaseTensor<'m>> {
    let tensor = index.tensor(name)?;
    Some(BaseTensor {
        ggml_type: tensor.ggml_type,
        data: index.data(&tensor)?,
    })
}

impl BaseTensor<'_> {
    /// Its blocks, if what they hold can be checked.
    #[must_use]
    pub fn blocks(&self) -> Option<Blocks> {
        Blocks::of(self.ggml_type)
    }
}

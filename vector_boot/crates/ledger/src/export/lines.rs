//! Lines of JSON, an event each, in a file or on standard output.

use super::{Exported, Sink};
use crate::objects::Fresh;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes that are written at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// Writes lines.
pub struct Lines {
    buffer: Vec<u8>,
    out: Out,
}

enum Out {
    File(Fresh, PathBuf),
    Standard,
}

impl Lines {
    /// To a file, which appears whole at the end; `-` is standard output.
    ///
    /// # Errors
    /// As the system's.
    pub fn to(path: &Path) -> io::Result<Self> {
        let out = match path.as_os_str() == "-" {
            true => Out::Standard,
            false => {
                let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
                let fresh = Fresh::begin(parent.unwrap_or(Path::new(".")))?;
                Out::File(fresh, path.to_owned())
            }
        };
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        Ok(Self { buffer, out })
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.out {
            Out::File(fresh, _) => fresh.write(&self.buffer)?,
            Out::Standard => {
                let mut out = io::stdout().lock();
                out.write_all(&self.buffer)?;
                out.flush()?;
            }
        }
        self.buffer.clear();
        Ok(())
    }
}

impl Sink for Lines {
    fn take(&mut self, event: &Exported) -> io::Result<()> {
        self.buffer.extend_from_slice(event.json.as_bytes());
        self.buffer.push(b'\n');
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn end(mut self: Box<Self>) -> io::Result<()> {
        self.flush()?;
        match self.out {
            Out::File(fresh, path) => {
                let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
                let folder = parent.unwrap_or(Path::new("."));
                let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
                fresh.keep(&folder.join(name))
            }
            Out::Standard => Ok(()),
        }
    }
}

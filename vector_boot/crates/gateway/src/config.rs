//! How the gateway is told what to do: its command line, the environment, and what PID 1 passed.
//!
//! Start with [`Options`] and [`roots`].

use crate::reality::RootMode;
use crate::roots::{Root, Roots};
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use sys::inherit::Inherited;

/// Roots at most: descriptors of a service are few.
pub const ROOTS_MAX: usize = 16;

/// The command line.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "gateway", about = "Tools for agents over HTTP")]
pub struct Options {
    /// `serve`, which is also what happens without a word
    #[arg(value_parser = ["serve"], default_value = "serve")]
    pub command: String,
    /// Address to listen on, unless PID 1 passed a listener
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub listen: std::net::SocketAddr,
    /// A root, unless PID 1 passed some: a directory that tools may act below
    #[arg(long = "root", value_name = "NAME=PATH[:ro]")]
    pub roots: Vec<String>,
    /// A host name that is served beside localhost and the machine's own
    #[arg(long = "allow-host", value_name = "NAME")]
    pub hosts: Vec<String>,
    /// Folder of the services' sockets, VB_RUN or /run/vb unless given
    #[arg(long, value_name = "FOLDER")]
    pub run: Option<PathBuf>,
    /// What the ledger is told of a call's parameters beside a commitment to them
    #[arg(long, value_enum, default_value_t)]
    pub audit_paths: AuditPaths,
    /// Listen on /tmp/sovereign-gateway.sock as well
    #[arg(long)]
    pub compat_socket: bool,
}

/// What a row holds of a call's parameters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum AuditPaths {
    /// All of them, for everybody who may read the row
    Clear,
    /// All of them, for auditors alone
    #[default]
    Sealed,
    /// Nothing
    Off,
}

/// Reads the words behind the role's name.
///
/// # Errors
/// clap's; its text tells how the command is used.
pub fn parse(words: &[OsString]) -> Result<Options, clap::Error> {
    let name = OsString::from("gateway");
    clap::Parser::try_parse_from(std::iter::once(&name).chain(words))
}

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A root's text.
    #[error("--root {0}: NAME=PATH or NAME=PATH:ro, with NAME of letters, digits, - and _")]
    Root(String),
    /// Too many roots.
    #[error("{0} roots, at most {ROOTS_MAX}")]
    Roots(usize),
    /// Two roots of one name.
    #[error("root {0}: named twice")]
    Twice(String),
    /// A directory that does not open.
    #[error("root {name}")]
    Open {
        /// The root.
        name: String,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
}

/// The roots: those that PID 1 passed as `root.NAME`, else those of the command line. `work` comes
/// first, which makes it the default; `share` is never written to.
///
/// # Errors
/// [`ConfigError`].
pub fn roots(inherited: &mut Inherited, options: &Options) -> Result<Roots, ConfigError> {
    let passed = inherited.remove_all("root.");
    let mut roots = match passed.is_empty() {
        false => passed
            .into_iter()
            .map(|(name, fd)| from_descriptor(name, fd))
            .collect::<Result<Vec<_>, _>>()?,
        true => options
            .roots
            .iter()
            .map(|text| from_text(text))
            .collect::<Result<Vec<_>, _>>()?,
    };
    if roots.len() > ROOTS_MAX {
        return Err(ConfigError::Roots(roots.len()));
    }
    roots.sort_by_key(|r| r.name != "work");
    for (i, root) in roots.iter().enumerate() {
        if roots.iter().skip(i + 1).any(|r| r.name == root.name) {
            return Err(ConfigError::Twice(root.name.clone()));
        }
    }
    Ok(Roots(roots))
}

fn from_descriptor(name: String, fd: OwnedFd) -> Result<Root, ConfigError> {
    let mode = match name.as_str() {
        "share" => RootMode::ReadOnly,
        _ => RootMode::ReadWrite,
    };
    // Where it lies is told for absolute paths only; without /proc there are none.
    let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok();
    made(name, mode, path, fd)
}

fn from_text(text: &str) -> Result<Root, ConfigError> {
    let wrong = || ConfigError::Root(text.to_owned());
    let (name, path) = text.split_once('=').ok_or_else(wrong)?;
    let (path, mode) = match path.strip_suffix(":ro") {
        Some(path) => (path, RootMode::ReadOnly),
        None => (path, RootMode::ReadWrite),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let good = !name.is_empty() && name.len() <= wire::NAME_BYTES_MAX && name.bytes().all(plain);
    if !good || path.is_empty() {
        return Err(wrong());
    }
    let open = |path: &Path| {
        let path = path.canonicalize()?;
        Ok((File::open(&path)?, path))
    };
    let (directory, path) = open(Path::new(path)).map_err(|cause| ConfigError::Open {
        name: name.to_owned(),
        cause,
    })?;
    made(name.to_owned(), mode, Some(path), directory.into())
}

fn made(
    name: String,
    mode: RootMode,
    path: Option<PathBuf>,
    directory: OwnedFd,
) -> Result<Root, ConfigError> {
    Root::new(name.clone(), mode, path, directory)
        .map_err(|cause| ConfigError::Open { name, cause })
}

/// The boot's id from VB_BOOT_ID, or a new one: 32 hexadecimal digits.
///
/// # Errors
/// As `getrandom(2)`.
pub fn boot_id() -> std::io::Result<[u8; 16]> {
    let text = std::env::var("VB_BOOT_ID").unwrap_or_default();
    if let Some(id) = u128::from_str_radix(&text, 16)
        .ok()
        .filter(|_| text.len() == 32)
    {
        return Ok(id.to_be_bytes());
    }
    let mut id = [0u8; 16];
    sys::random::fill(&mut id)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str]) -> Options {
        parse(&words.iter().map(OsString::from).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn roots_are_checked_and_work_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, more: &str| format!("{name}={}{more}", folder.path().display());
        let read = |roots: &[String]| {
            let words: Vec<&str> = roots.iter().flat_map(|r| ["--root", r.as_str()]).collect();
            super::roots(&mut Inherited::default(), &options(&words))
        };
        let roots = read(&[at("share", ":ro"), at("work", "")]).unwrap();
        let modes: Vec<_> = roots.0.iter().map(|r| (r.name.as_str(), r.mode)).collect();
        let expected = [("work", RootMode::ReadWrite), ("share", RootMode::ReadOnly)];
        assert_eq!(modes, expected);
        for bad in ["work", "=x", "a/b=/", "a=", "a=:ro"] {
            assert!(read(&[bad.to_owned()]).is_err(), "{bad}");
        }
        assert!(read(&[at("a", ""), at("a", "")]).is_err());
        assert!(read(&[at("a", "/none")]).is_err());
        assert_eq!(options(&["serve"]).listen.port(), 8080);
        assert!(parse(&[OsString::from("sell")]).is_err());
        assert_eq!(options(&[]).audit_paths, AuditPaths::Sealed);
        let off = options(&["--audit-paths=off"]);
        assert_eq!(off.audit_paths, AuditPaths::Off);
        assert!(parse(&[OsString::from("--audit-paths=hidden")]).is_err());
    }
}

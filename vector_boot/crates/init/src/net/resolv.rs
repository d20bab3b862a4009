//! `resolv.conf`: what programs that resolve names read, written whole or not at all.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The text for these servers and this domain; both were checked where they came in.
#[must_use]
pub fn text(dns: &[Ipv4Addr], domain: &str) -> String {
    let mut text = "# written by the role net\n".to_owned();
    for server in dns {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "nameserver {server}");
    }
    if !domain.is_empty() {
        let _ = writeln!(text, "search {domain}");
    }
    text
}

/// Puts a file in the place of another at once: who reads sees the old one or the new one.
///
/// # Errors
/// As `open(2)`, `write(2)` and `rename(2)`.
pub fn replace(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    use io::Write;
    let new = folder.join(format!(".{name}"));
    let mut file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&new)?;
    // The umask of services is 077; this is for everybody.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    drop(file);
    fs::rename(new, folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_come_in_their_order_and_the_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let dns = [Ipv4Addr::new(10, 0, 2, 3), Ipv4Addr::new(9, 9, 9, 9)];
        replace(folder.path(), "resolv.conf", &text(&dns, "example.org")).unwrap();
        let read = || fs::read_to_string(folder.path().join("resolv.conf")).unwrap();
        assert_eq!(
            read(),
            "# written by the role net\nnameserver 10.0.2.3\nnameserver 9.9.9.9\nsearch example.org\n"
        );
        replace(folder.path(), "resolv.conf", &text(&[], "")).unwrap();
        assert_eq!(read(), "# written by the role net\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

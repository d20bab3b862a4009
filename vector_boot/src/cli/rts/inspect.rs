//! `rts inspect`: what a package says of itself, for people and as one line of JSON. It hashes nothing large.

use std::io::Write;
use std::path::Path;

use rts::elf::{self, Linkage};
use rts::manifest::source;
use rts::{HEADER_BYTES, Package};
use serde_json::{Value, json};

use super::files::{failure, open};
use super::say;

/// Shows the package at the front of `file`.
pub(super) fn inspect(file: &Path, json: bool, out: &mut dyn Write) -> Result<(), String> {
    let window = open(file)?;
    let package = Package::parse(&window.bytes).map_err(|error| failure(file, &error))?;
    if json {
        return say(out, format_args!("{}", as_json(&package)));
    }
    let machine = package
        .machine()
        .map_or("machine not said", |machine| machine.as_str());
    let signed = package
        .key_id()
        .map_or("unsigned".to_owned(), |key| format!("signed by {key}"));
    let form = if package.is_plain() {
        "plain"
    } else {
        "version 1"
    };
    say(
        out,
        format_args!(
            "package   {} bytes, {form}, {machine}, {signed}",
            package.bytes()
        ),
    )?;
    if let Some(digest) = package.digest() {
        say(out, format_args!("digest    {digest}"))?;
    }
    let binary = package.binary();
    say(
        out,
        format_args!(
            "binary    {} bytes at {HEADER_BYTES}, {}",
            binary.len(),
            linkage(binary)
        ),
    )?;
    let tensors = package.tensors();
    say(
        out,
        format_args!("tensors   {} bytes at {}", tensors.bytes, tensors.offset),
    )?;
    for section in package.sections() {
        let (name, kind) = (&section.name, section.kind.as_str());
        say(
            out,
            format_args!(
                "section   {name}: {kind}, {} bytes at {}",
                section.bytes, section.offset
            ),
        )?;
    }
    let Some(manifest) = package.manifest() else {
        return Ok(());
    };
    say(out, format_args!("machine   {}", manifest.hostname))?;
    for root in &manifest.roots {
        say(
            out,
            format_args!("root      {}: {} {:?}", root.name, root.path, root.mode),
        )?;
    }
    for param in &manifest.params {
        say(out, format_args!("param     {}={}", param.key, param.value))?;
    }
    for (index, service) in manifest.services.iter().enumerate() {
        let words: Vec<&str> = service.args.iter().map(|word| word.as_str()).collect();
        let needs: Vec<&str> = service.needs.iter().map(|need| need.as_str()).collect();
        let needs = if needs.is_empty() {
            String::new()
        } else {
            format!(", needs {}", needs.join(" "))
        };
        let uid = manifest.uid(index).unwrap_or_default();
        let (name, image) = (&service.name, service.image.as_str());
        let words = if words.is_empty() {
            String::new()
        } else {
            format!(" {}", words.join(" "))
        };
        say(
            out,
            format_args!("service   {name}: {image}{words}, uid {uid}{needs}"),
        )?;
    }
    Ok(())
}

fn as_json(package: &Package<'_>) -> Value {
    let text = |value: Option<rts::Digest>| value.map(|digest| digest.to_string());
    let sections: Vec<Value> = package
        .sections()
        .map(|section| {
            json!({
                "name": section.name,
                "kind": section.kind.as_str(),
                "offset": section.offset,
                "bytes": section.bytes,
                "blake3": section.blake3.to_string(),
            })
        })
        .collect();
    // From the binary manifest, which is what the machine reads; the package's own copy is for people.
    let manifest = package
        .manifest()
        .map(source::to_json)
        .and_then(|json| serde_json::from_str::<Value>(&json).ok());
    let range = package.binary_range();
    let tensors = package.tensors();
    json!({
        "plain": package.is_plain(),
        "bytes": package.bytes(),
        "machine": package.machine().map(|machine| machine.as_str()),
        "digest": text(package.digest()),
        "signed_by": package.key_id().map(|key| key.to_string()),
        "binary": {
            "offset": range.start,
            "bytes": range.end - range.start,
            "blake3": text(package.binary_blake3()),
            "linkage": linkage(package.binary()),
        },
        "tensors": { "offset": tensors.offset, "bytes": tensors.bytes },
        "sections": sections,
        "manifest": manifest,
    })
}

fn linkage(bytes: &[u8]) -> String {
    match elf::inspect(bytes) {
        Ok(elf) => match elf.linkage {
            Linkage::Static => "static".into(),
            Linkage::StaticPie => "static-pie".into(),
            Linkage::Dynamic => "dynamic".into(),
            Linkage::Library => "library".into(),
        },
        Err(problem) => problem.to_string(),
    }
}

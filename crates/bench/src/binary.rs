//! What a binary says of itself: its size, and what made it.

use std::{fs, io, path::Path};

pub struct Binary {
    pub bytes: u64,
    /// In words: compiler, std, linker, kind of file.
    pub made_by: String,
}

impl Binary {
    pub fn read(path: &Path) -> io::Result<Self> {
        let content = fs::read(path)?;
        Ok(Self { bytes: content.len() as u64, made_by: made_by(&content) })
    }
}

fn made_by(content: &[u8]) -> String {
    // Compilers and linkers write their versions into the section `.comment`, which stripping leaves.
    let compiler = said(content, b"rustc version ").unwrap_or_else(|| "an unknown compiler".to_owned());
    let linker = said(content, b"Linker: ").unwrap_or_else(|| "linker unknown".to_owned());
    let c = said(content, b"clang version ").or_else(|| said(content, b"GCC: "));
    // The places of its own assertions: a std that comes ready-made was built under this name.
    let std = match find(content, b"/library/std/src/") {
        Some(at) if content[..at].ends_with_path_of_rustup() => "std as rustup brings it",
        Some(_) => "std built with the program",
        None => "std unknown",
    };
    let kind = match (content.get(16), find(content, b"/ld-linux").or_else(|| find(content, b"/ld-musl"))) {
        (_, Some(_)) => "dynamic",
        (Some(2), None) => "static, not position-independent",
        _ => "static, position-independent",
    };
    let c = c.map(|c| format!("; C by {c}")).unwrap_or_default();
    format!("{compiler}; {std}; {linker}{c}; {kind}")
}

trait PathOfRustup {
    /// Whether this ends in `/rustc/` and a commit.
    fn ends_with_path_of_rustup(&self) -> bool;
}

impl PathOfRustup for [u8] {
    fn ends_with_path_of_rustup(&self) -> bool {
        const COMMIT: usize = 40;
        let Some(at) = self.len().checked_sub(COMMIT) else { return false };
        self[at..].iter().all(u8::is_ascii_hexdigit) && self[..at].ends_with(b"/rustc/")
    }
}

/// The text that begins so, up to its end.
fn said(content: &[u8], begin: &[u8]) -> Option<String> {
    let text = &content[find(content, begin)?..];
    let end = text.iter().position(|byte| !(b' '..=b'~').contains(byte)).unwrap_or(text.len());
    // What stands in parentheses is a commit or a path.
    let text = String::from_utf8_lossy(&text[..end]).into_owned();
    Some(text.split(" (/").next().unwrap_or(&text).to_owned())
}

fn find(content: &[u8], wanted: &[u8]) -> Option<usize> {
    content.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_makers_are_read_from_the_file() {
        let mut file = vec![0_u8; 20];
        file[16] = 2;
        file.extend(b"/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/std/src/io.rs\0");
        file.extend(b"rustc version 1.95.0 (59807616e 2026-04-14)\0Linker: LLD 22.1.2 (/checkout/x)\0");
        assert_eq!(
            made_by(&file),
            "rustc version 1.95.0 (59807616e 2026-04-14); std as rustup brings it; Linker: LLD 22.1.2; \
             static, not position-independent"
        );
        file[16] = 3;
        file.extend(b"/lib64/ld-linux-x86-64.so.2\0");
        let built = String::from_utf8_lossy(&file).replace("/rustc/5980", "/home/me/5980").into_bytes();
        assert!(made_by(&built).contains("std built with the program"), "{}", made_by(&built));
        assert!(made_by(&built).ends_with("dynamic"));
    }
}

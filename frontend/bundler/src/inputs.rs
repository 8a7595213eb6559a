//! What a bundle is made from, as one hash.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::compiler::Profile;

/// Files and directories a bundle depends on, relative to the checkout.
const INPUTS: &[&str] = &["Cargo.lock", "Cargo.toml", "frontend", "shared"];

/// Hash over paths and contents of everything a bundle is made from, as 16 hexadecimal digits.
pub(crate) fn hash(root: &Path, profile: Profile) -> Result<String> {
    let mut files = Vec::new();
    for input in INPUTS {
        collect(&root.join(input), &mut files)?;
    }
    files.sort();
    let mut hasher = Sha256::new();
    hasher.update(profile.name());
    for file in files {
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy();
        for part in [name.as_bytes(), &content] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    Ok(hex::encode(&hasher.finalize()[..8]))
}

/// Adds every file below `path`, without what the bundler itself writes.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_file() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
        let entry = entry?.path();
        let name = entry
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name != "dist" && !name.starts_with("dist.draft-") {
            collect(&entry, files)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkout(name: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("holdfast-bundler-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for dir in ["frontend/src", "frontend/dist", "shared"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for file in ["Cargo.lock", "Cargo.toml", "frontend/src/lib.rs", "shared/lib.rs"] {
            fs::write(root.join(file), file).unwrap();
        }
        root
    }

    #[test]
    fn output_does_not_change_the_hash_but_every_source_does() {
        let root = checkout("hash");
        let before = hash(&root, Profile::Wasm).unwrap();
        fs::write(root.join("frontend/dist/index.html"), "built").unwrap();
        assert_eq!(hash(&root, Profile::Wasm).unwrap(), before);
        assert_ne!(hash(&root, Profile::Dev).unwrap(), before);
        for file in ["Cargo.lock", "Cargo.toml", "frontend/src/lib.rs", "shared/lib.rs"] {
            fs::write(root.join(file), "changed").unwrap();
            assert_ne!(hash(&root, Profile::Wasm).unwrap(), before, "{file}");
            fs::write(root.join(file), file).unwrap();
        }
        fs::rename(root.join("shared/lib.rs"), root.join("shared/other.rs")).unwrap();
        assert_ne!(hash(&root, Profile::Wasm).unwrap(), before);
        fs::remove_dir_all(root).unwrap();
    }
}

//! From a compiled module and the files of `frontend/` to a bundle: bindings, style sheet, start script and page,
//! each named after its content so that browsers may keep them for ever.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest, Sha256};
use wasm_bindgen_cli_support::Bindgen;

use crate::compiler::Profile;

/// The style sheet that fixes the order of the cascade layers and therefore comes first.
const FIRST_STYLE: &str = "layers.css";

/// Writes the whole bundle into `out`, an empty directory.
pub(crate) fn assemble(module: &Path, profile: Profile, frontend: &Path, out: &Path) -> Result<()> {
    let work = out.join("work");
    fs::create_dir(&work)?;
    bind(module, profile, &work)?;
    if profile == Profile::Wasm {
        shrink(&work.join("console_bg.wasm"))?;
    }
    let wasm = place(out, "console", "wasm", &fs::read(work.join("console_bg.wasm"))?)?;
    let js = place(out, "console", "js", &fs::read(work.join("console.js"))?)?;
    if work.join("snippets").is_dir() {
        copy_dir(&work.join("snippets"), &out.join("snippets"))?;
    }
    fs::remove_dir_all(&work)?;

    let start = fill(
        &read(&frontend.join("start.js"))?,
        &[("console.js", &js), ("console.wasm", &wasm)],
    )?;
    let start = place(out, "start", "js", start.as_bytes())?;
    let theme = place(out, "theme", "js", read(&frontend.join("theme.js"))?.as_bytes())?;
    let css = place(
        out,
        "console",
        "css",
        styles(&frontend.join("styles"))?.as_bytes(),
    )?;
    let icon = place(out, "icon", "svg", &fs::read(frontend.join("icon.svg"))?)?;
    let names = [
        ("console.css", css.as_str()),
        ("theme.js", &theme),
        ("start.js", &start),
        ("console.js", &js),
        ("console.wasm", &wasm),
        ("icon.svg", &icon),
    ];
    let index = fill(&read(&frontend.join("index.html"))?, &names)?;
    fs::write(out.join("index.html"), index).context("cannot write index.html")?;
    report(out)
}

/// Runs wasm-bindgen, as a library so that its version is the lock file's.
fn bind(module: &Path, profile: Profile, work: &Path) -> Result<()> {
    println!("console: binding {}", module.display());
    let dev = profile == Profile::Dev;
    Bindgen::new()
        .input_path(module)
        .web(true)
        .map_err(|e| anyhow!("wasm-bindgen: {e:#}"))?
        .out_name("console")
        .typescript(false)
        .omit_default_module_path(true)
        .keep_debug(dev)
        .remove_name_section(!dev)
        .remove_producers_section(true)
        .generate(work)
        .map_err(|e| anyhow!("wasm-bindgen: {e:#}"))
}

/// Runs wasm-opt where there is one. It saves bytes and nothing else, so an old one that does not know a feature of
/// the module is no reason to stop.
fn shrink(module: &Path) -> Result<()> {
    let shrunk = module.with_extension("opt");
    let outcome = Command::new("wasm-opt")
        .args([
            "-Oz",
            "--enable-bulk-memory",
            "--enable-sign-ext",
            "--enable-nontrapping-float-to-int",
        ])
        .args([
            "--enable-mutable-globals",
            "--enable-reference-types",
            "--enable-multivalue",
        ])
        .arg(module)
        .arg("-o")
        .arg(&shrunk)
        .output();
    match outcome {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).context("cannot run wasm-opt"),
        Ok(output) if output.status.success() => Ok(fs::rename(shrunk, module)?),
        Ok(output) => {
            println!(
                "console: wasm-opt failed ({}), the module stays as it is: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
                    .lines()
                    .next()
                    .unwrap_or_default()
            );
            Ok(())
        }
    }
}

/// All style sheets as one: the layers first, then by name.
fn styles(dir: &Path) -> Result<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .with_context(|| format!("cannot list {}", dir.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "css"));
    files.sort_by_key(|file| (!file.ends_with(FIRST_STYLE), file.clone()));
    files.iter().map(|file| read(file)).collect()
}

/// Replaces each `{{name}}` by the file that has that role. A name that is left over is an error.
fn fill(template: &str, names: &[(&str, &str)]) -> Result<String> {
    let filled = names.iter().fold(template.to_owned(), |text, (name, file)| {
        text.replace(&format!("{{{{{name}}}}}"), &format!("/{file}"))
    });
    if let Some(at) = filled.find("{{") {
        let rest: String = filled[at..].chars().take(40).collect();
        bail!("a template names a file that the bundle does not have: {rest}");
    }
    Ok(filled)
}

/// Writes content under a name made from it and returns the name.
fn place(out: &Path, stem: &str, extension: &str, content: &[u8]) -> Result<String> {
    let digest = hex::encode(&Sha256::digest(content)[..8]);
    let name = format!("{stem}-{digest}.{extension}");
    fs::write(out.join(&name), content).with_context(|| format!("cannot write {name}"))?;
    Ok(name)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Copies a directory with everything below it.
pub(crate) fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(|| format!("cannot write {}", target.display()))?;
        }
    }
    Ok(())
}

/// Prints each file of the bundle with its size.
fn report(out: &Path) -> Result<()> {
    let mut files: Vec<(String, u64)> = Vec::new();
    for entry in fs::read_dir(out)? {
        let entry = entry?;
        files.push((
            entry.file_name().to_string_lossy().into_owned(),
            entry.metadata()?.len(),
        ));
    }
    files.sort();
    for (name, size) in files {
        println!("console: {:>9.1} KiB  {name}", size as f64 / 1024.0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_and_unknown_names_refused() {
        let text = fill("a {{x.js}} b {{x.js}}", &[("x.js", "x-1.js")]).unwrap();
        assert_eq!(text, "a /x-1.js b /x-1.js");
        assert!(fill("{{y.js}}", &[("x.js", "x-1.js")]).is_err());
    }
}

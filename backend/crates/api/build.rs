//! Makes sure that the folder of the built console exists, so that the server compiles without it, and that the server
//! is compiled again when the console was.

use std::path::Path;

fn main() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../frontend/dist");
    std::fs::create_dir_all(&dist).expect("the checkout can be written to");
    println!("cargo:rerun-if-changed={}", dist.display());
    println!("cargo:rerun-if-changed=build.rs");
}

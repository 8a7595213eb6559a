//! What is generated: keys, and what the repository keeps that comes from the code.

use std::io::Write;

use holdfast_seal::PlanKey;
use secrecy::ExposeSecret;

/// Prints the custom resource definitions as the chart holds them.
pub(crate) fn crds() -> anyhow::Result<()> {
    print(&holdfast_crd::generate::yaml()?)
}

/// Prints the OpenAPI document.
pub(crate) fn openapi() -> anyhow::Result<()> {
    print(&holdfast_api::openapi_yaml().map_err(anyhow::Error::from_boxed)?)
}

/// Makes a key as `age-keygen` writes it. Where the output goes to a file, the terminal still shows the public half.
pub(crate) fn keygen() -> anyhow::Result<()> {
    let key = PlanKey::generate();
    let public = key.recipient();
    eprintln!("public key: {public}");
    print(&format!(
        "# public key: {public}\n{}\n",
        key.to_text().expose_secret()
    ))
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

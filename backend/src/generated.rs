//! What is generated from the code and kept in the repository.

use std::io::Write;

/// Prints the custom resource definitions as the chart holds them.
pub(crate) fn crds() -> anyhow::Result<()> {
    print(&holdfast_crd::generate::yaml()?)
}

/// Prints the OpenAPI document.
pub(crate) fn openapi() -> anyhow::Result<()> {
    print(&holdfast_api::openapi_yaml().map_err(anyhow::Error::from_boxed)?)
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

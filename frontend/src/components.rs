//! The console's own component kit: semantic HTML with classes of `styles/`.

pub(crate) mod clipboard;
pub(crate) mod dialog;
pub(crate) mod feedback;
pub(crate) mod field;
pub(crate) mod icon;
pub(crate) mod keyboard;
pub(crate) mod page;
pub(crate) mod run;
pub(crate) mod shell;
pub(crate) mod tabs;
pub(crate) mod text;
pub(crate) mod toaster;
pub(crate) mod yaml;

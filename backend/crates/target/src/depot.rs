//! A folder, served over HTTPS: [`serve`] runs where the folder is mounted, [`DepotTarget`] is the [`crate::Target`] of
//! those who cannot mount it. It is for documents, lists, removals and copies inside the store; whoever moves volumes
//! mounts the folder itself.
//!
//! Decisions:
//! - One call is one `POST /call`: a JSON document that says what is asked, then the bytes of the object; the answer looks
//!   the same. So a key never has to fit into a header or a path.
//! - A call names the store that it expects ([`crate::StoreId`]). A depot that finds another one, or none, refuses; it
//!   makes a store only when asked to adopt the folder, and only where something is mounted.
//! - The two sides know each other by [`DepotCredentials`], made for one depot: the client trusts this one certificate and
//!   no authority, the server takes this one token.
//! - What is under way is bounded in bytes, before they are read.
//! - A client that repeats a call whose answer was lost says so; the outcome is then that of the first one.

mod client;
mod credentials;
mod operations;
mod server;
mod wire;

pub use client::{DepotAccess, DepotTarget};
pub use credentials::{CredentialsError, DepotCredentials};
pub use server::{DepotError, serve};

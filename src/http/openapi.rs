//! `GET /openapi.json`: OpenAPI 3.1, as `docs/openapi.json` has it. A test makes that document from the table of endpoints
//! and the types of the wire, and compares.

/// The document.
pub const DOCUMENT: &str = include_str!("../../docs/openapi.json");

#[cfg(test)]
mod make;

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{InvalidSettings, error::At, retry::code, words::none};
use crate::outcome::GrpcCode;

/// The section `split`: what [`SplitLayer`](crate::split::SplitLayer) can be
/// told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SplitSettings {
    /// Whether anything is split. Default true.
    pub enabled: bool,
    /// On which HTTP statuses a bad item is looked for. Default none.
    pub statuses: Vec<u16>,
    /// On which gRPC codes, by their names. Default none.
    pub codes: Vec<String>,
    /// How often a piece must be refused. Default 1; `"none"` for never.
    #[serde(with = "none")]
    pub refusals: Option<u32>,
    /// Whether every request is taken for safe to send twice. Default false.
    pub any_method: bool,
    /// How many pieces of a request are under way at once. Default 1.
    pub concurrency: usize,
}

impl Default for SplitSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            statuses: Vec::new(),
            codes: Vec::new(),
            refusals: Some(1),
            any_method: false,
            concurrency: 1,
        }
    }
}

impl SplitSettings {
    pub(super) fn lists(&self) -> Result<(Vec<StatusCode>, Vec<GrpcCode>), InvalidSettings> {
        let status = |(at, status): (usize, &u16)| {
            StatusCode::from_u16(*status).at(&format!("split.statuses[{at}]"))
        };
        let code = |(at, name): (usize, &String)| code(name).at(&format!("split.codes[{at}]"));
        let statuses: Result<_, _> = self.statuses.iter().enumerate().map(status).collect();
        let codes: Result<_, _> = self.codes.iter().enumerate().map(code).collect();
        Ok((statuses?, codes?))
    }
}

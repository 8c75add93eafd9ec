use serde::{Deserialize, Serialize};

use crate::retry::Account;

/// The sections `retry.replay` and `failover.replay`: the bounds of an [`Account`],
/// in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ReplaySettings {
    /// What one request may record of its body. Default 4 MiB.
    pub per_request: usize,
    /// What all requests may record together. Default 256 MiB.
    pub total: usize,
}

impl Default for ReplaySettings {
    fn default() -> Self {
        Self {
            per_request: 4 << 20,
            total: 256 << 20,
        }
    }
}

impl ReplaySettings {
    pub(crate) fn account(&self) -> Account {
        Account::new(self.per_request, self.total)
    }

    pub(crate) fn write_to(&self, account: &Account) {
        account.resize(self.per_request, self.total);
    }
}

use std::{fmt, mem, sync::Arc};

use tokio::time::Instant;

use super::{Budget, BudgetEmpty};
use crate::outcome::Outcome;

/// One request's dealings with its [`Budget`]. Dropping it ends the request, so
/// that a caller who goes away leaves nothing behind.
pub struct Ticket {
    budget: Arc<dyn Budget>,
    held: u32,
}

impl Ticket {
    /// Begins a request.
    pub fn new(budget: Arc<dyn Budget>) -> Self {
        budget.begin();
        Self { budget, held: 0 }
    }

    /// Asks for a retry after `outcome`.
    ///
    /// # Errors
    ///
    /// [`BudgetEmpty`] if the budget refuses it. Then the request ends, or
    /// [asks again](Self::ask_again) later.
    pub fn try_withdraw(&mut self, now: Instant, outcome: &Outcome) -> Result<(), BudgetEmpty> {
        let held = mem::take(&mut self.held);
        self.held = self.budget.try_withdraw(now, outcome, held)?;
        Ok(())
    }

    /// Asks once more for the retry that was refused.
    ///
    /// # Errors
    ///
    /// [`BudgetEmpty`] if it still is.
    pub fn ask_again(&mut self, now: Instant, outcome: &Outcome) -> Result<(), BudgetEmpty> {
        let held = mem::take(&mut self.held);
        self.held = self.budget.ask_again(now, outcome, held)?;
        Ok(())
    }

    /// Ends the request with `outcome`, after which no retry is wanted.
    pub fn deposit(self, now: Instant, outcome: &Outcome) {
        self.budget.deposit(now, outcome, self.held);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.budget.end(self.held);
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

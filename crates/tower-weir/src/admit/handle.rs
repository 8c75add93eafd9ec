/// Writes what the handles of all layers over an admission have in common.
macro_rules! admission_handle {
    ($handle:ident) => {
        impl $handle {
            /// Everything that the layer value which the handle was taken from
            /// does from now on. See [`observe`](crate::observe).
            pub fn subscribe(&self) -> crate::observe::Subscription {
                self.registry.seam().subscribe()
            }

            /// Admits no more calls, refuses those who wait with a
            /// [`ShuttingDown`](crate::error::ShuttingDown), and returns when the
            /// last call in flight has ended, its response body included, unless
            /// that has been open for `max_hold`. There is no way back.
            ///
            /// Dropping the future does not take it back either; to await it
            /// again, call it again.
            pub async fn drain(&self) {
                self.registry.drain().await;
            }
        }

        impl std::fmt::Debug for $handle {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($handle)).finish_non_exhaustive()
            }
        }
    };
}

pub(crate) use admission_handle;

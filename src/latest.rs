//! A value that is replaced as a whole while others read it.

use std::sync::{Arc, PoisonError, RwLock};

/// The newest of a row of values. The lock is held to copy or to replace a pointer, never over work: who has
/// taken a value keeps that one, whatever comes after it.
#[derive(Debug)]
pub struct Latest<T>(RwLock<Arc<T>>);

impl<T> Latest<T> {
    /// The first value.
    pub fn new(value: T) -> Self {
        Self(RwLock::new(Arc::new(value)))
    }

    /// The value that counts now.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts `value` in the place of what was there.
    pub fn set(&self, value: T) {
        let value = Arc::new(value);
        let old = std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), value);
        drop(old); // outside the lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_value_keeps_it_and_who_comes_later_gets_the_newest() {
        let latest = Latest::new(1);
        let old = latest.get();
        latest.set(2);
        assert_eq!((*old, *latest.get()), (1, 2));
    }
}

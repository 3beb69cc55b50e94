//! Correlation ids for requests that bring none.

use uuid::Uuid;

use crate::id::Entropy;

/// Ids made at once: a system call for each would cost as much as parsing the request.
const IDS: usize = 64;
const ID_BYTES: usize = 16;

/// A source of random (version 4) ids.
pub(crate) struct Correlations {
    entropy: Box<dyn Entropy>,
    pool: Box<[u8; IDS * ID_BYTES]>,
    used: usize,
}

impl Correlations {
    /// Ids made of the bytes of `entropy`.
    pub(crate) fn new(entropy: Box<dyn Entropy>) -> Self {
        Self { entropy, pool: Box::new([0; IDS * ID_BYTES]), used: IDS }
    }

    /// An id that nobody has had.
    pub(crate) fn fresh(&mut self) -> Uuid {
        if self.used == IDS {
            self.entropy.fill(&mut *self.pool);
            self.used = 0;
        }
        let mut bytes = [0; ID_BYTES];
        bytes.copy_from_slice(&self.pool[self.used * ID_BYTES..][..ID_BYTES]);
        self.used += 1;
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::id::SystemEntropy;

    #[test]
    fn ids_are_version_4_and_differ_beyond_one_pool() {
        let mut correlations = Correlations::new(Box::new(SystemEntropy::new()));
        let ids: HashSet<Uuid> = (0..3 * IDS).map(|_| correlations.fresh()).collect();
        assert_eq!(ids.len(), 3 * IDS);
        assert!(ids.iter().all(|id| id.get_version_num() == 4));
    }
}

//! What a loop owns, by slot and generation: a token that outlives its connection means nobody, never
//! the next one in the same slot.

/// Bits of a token that name the slot; the others are its generation.
const SLOT_BITS: u32 = 24;

/// A slot and its generation: never given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Token(pub(crate) u64);

impl Token {
    fn new(slot: usize, generation: u64) -> Self {
        Self((generation << SLOT_BITS) | slot as u64)
    }

    fn slot(self) -> usize {
        (self.0 & ((1 << SLOT_BITS) - 1)) as usize
    }

    fn generation(self) -> u64 {
        self.0 >> SLOT_BITS
    }
}

/// Boxed values in slots: an empty slot is small, a value never moves.
pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

struct Slot<T> {
    generation: u64,
    value: Option<Box<T>>,
}

impl<T> Slots<T> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    /// Values present.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Puts `value` into a slot.
    pub(crate) fn insert(&mut self, value: T) -> Token {
        let slot = match self.free.pop() {
            Some(slot) => slot as usize,
            None => {
                self.slots.push(Slot { generation: 0, value: None });
                self.slots.len() - 1
            }
        };
        debug_assert!(slot < 1 << SLOT_BITS, "connections are bounded far below 2^24");
        let entry = &mut self.slots[slot];
        entry.generation += 1;
        entry.value = Some(Box::new(value));
        Token::new(slot, entry.generation)
    }

    /// The value that `token` was given for, if it is still there.
    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let slot = self.slots.get_mut(token.slot())?;
        if slot.generation != token.generation() {
            return None;
        }
        slot.value.as_deref_mut()
    }

    /// Takes out the value that `token` was given for, if it is still there.
    pub(crate) fn remove(&mut self, token: Token) -> Option<Box<T>> {
        self.get_mut(token)?;
        self.free.push(token.slot() as u32);
        self.slots[token.slot()].value.take()
    }

    /// All values, to be changed.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|slot| slot.value.as_deref_mut())
    }

    /// All values, in the order of their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Token, &T)> {
        self.slots.iter().enumerate().filter_map(|(at, slot)| {
            let value = slot.value.as_deref()?;
            Some((Token::new(at, slot.generation), value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_means_its_own_value_only() {
        let mut slots = Slots::new();
        let (a, b) = (slots.insert("a"), slots.insert("b"));
        assert_eq!(slots.remove(a).as_deref(), Some(&"a"));
        let c = slots.insert("c");
        assert_eq!(c.slot(), a.slot(), "the slot is used again");
        assert_eq!(slots.get_mut(a), None);
        assert_eq!(slots.remove(a), None);
        assert_eq!([b, c].map(|token| slots.get_mut(token).copied()), [Some("b"), Some("c")]);
        assert_eq!((slots.len(), slots.iter().count()), (2, 2));
    }
}

use std::{
    collections::HashMap,
    hash::Hash,
    mem::take,
    sync::{Mutex, PoisonError},
};

/// What an entry costs beside its bytes, about.
const ENTRY_BYTES: usize = 256;

/// What was used recently, in a limited number of bytes.
///
/// Two generations: what is used is in the young one, and when that has half of what there may be,
/// it takes the place of the old one.
pub(crate) struct Recent<K, V> {
    bytes_max: usize,
    /// Of one value, so that none takes the place of many.
    value_bytes_max: usize,
    generations: Mutex<Generations<K, V>>,
}

struct Generations<K, V> {
    young: HashMap<K, (V, usize)>,
    young_bytes: usize,
    old: HashMap<K, (V, usize)>,
}

impl<K: Hash + Eq + Clone, V: Clone> Recent<K, V> {
    pub fn new(bytes_max: usize, value_bytes_max: usize) -> Self {
        let (young, old) = (HashMap::new(), HashMap::new());
        let generations = Mutex::new(Generations { young, young_bytes: 0, old });
        Self { bytes_max, value_bytes_max, generations }
    }

    pub fn get(&self, key: &K) -> Option<V> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((value, _)) = generations.young.get(key) {
            return Some(value.clone());
        }
        let (value, bytes) = generations.old.remove(key)?;
        generations.keep(key.clone(), (value.clone(), bytes), self.bytes_max);
        Some(value)
    }

    /// Keeps a value that has some bytes, in the place of an earlier one.
    pub fn keep(&self, key: K, value: V, bytes: usize) {
        if bytes <= self.value_bytes_max {
            let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
            generations.keep(key, (value, bytes), self.bytes_max);
        }
    }
}

impl<K: Hash + Eq, V> Generations<K, V> {
    fn keep(&mut self, key: K, (value, bytes): (V, usize), bytes_max: usize) {
        let size = bytes + ENTRY_BYTES;
        if self.young_bytes + size > bytes_max / 2 {
            self.old = take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += size;
        if let Some((_, before)) = self.young.insert(key, (value, bytes)) {
            self.young_bytes -= before + ENTRY_BYTES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_goes_at_the_limit() {
        let (max, one) = (8 << 20, 128 << 10);
        let cache = Recent::new(max, one);
        cache.keep("used".to_owned(), 1, 4);
        let names: Vec<_> = (0..1000).map(|number| format!("{number}")).collect();
        for name in &names {
            cache.keep(name.clone(), 2, one);
            assert_eq!(cache.get(&"used".to_owned()), Some(1));
        }
        let held = names.iter().filter(|name| cache.get(name).is_some()).count();
        assert!(held > max / one / 4 && held <= max / one, "{held} of {}", max / one);
        cache.keep("large".to_owned(), 3, one + 1);
        assert_eq!(cache.get(&"large".to_owned()), None);
        for value in 0..1000 {
            cache.keep("replaced".to_owned(), value, one);
            assert_eq!(cache.get(&"replaced".to_owned()), Some(value));
        }
        assert_eq!(cache.get(&"used".to_owned()), Some(1), "what is replaced costs nothing");
    }
}

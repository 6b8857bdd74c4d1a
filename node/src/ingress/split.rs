use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Shares requests by weights: of as many requests in a row as the weights have in all, each part
/// gets exactly its weight, and they are mixed.
#[derive(Debug, Clone)]
pub(super) struct Split {
    /// Where the turns of each part end.
    ends: Vec<u64>,
    /// From one turn to the next: has no divisor in common with all of them.
    stride: u64,
    count: Arc<AtomicU64>,
}

impl Split {
    /// `None` when no part has a weight.
    pub fn of(weights: impl IntoIterator<Item = u32>, count: Arc<AtomicU64>) -> Option<Self> {
        let mut end = 0;
        let ends: Vec<u64> = weights
            .into_iter()
            .map(|weight| {
                end += u64::from(weight);
                end
            })
            .collect();
        (end > 0).then(|| Self { stride: stride(end), ends, count })
    }

    /// The number of a request, which it keeps when it is tried again.
    pub fn draw(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    /// The part that has the request with this number.
    pub fn part(&self, number: u64) -> usize {
        let total = self.ends.last().copied().unwrap_or(1);
        let turn =
            (u128::from(number % total) * u128::from(self.stride) % u128::from(total)) as u64;
        self.ends.partition_point(|end| *end <= turn)
    }
}

/// Near the golden section of `total`, so that neighbours are far apart.
fn stride(total: u64) -> u64 {
    let start = (total as f64 * 0.618_034) as u64;
    (start.max(1)..).find(|stride| divisor(*stride, total) == 1).unwrap_or(1)
}

fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_gets_exactly_its_weight_in_every_round() {
        for weights in
            [vec![99, 1], vec![1, 1], vec![50, 30, 20], vec![0, 1], vec![9999, 1], vec![7, 5, 3, 1]]
        {
            let split = Split::of(weights.clone(), Arc::default()).unwrap();
            let total: u32 = weights.iter().sum();
            for _ in 0..3 {
                let mut got = vec![0; weights.len()];
                (0..total).for_each(|_| got[split.part(split.draw())] += 1);
                assert_eq!(got, weights);
            }
        }
        let half = Split::of([50, 50], Arc::default()).unwrap();
        let parts: Vec<usize> = (0..10).map(|number| half.part(number)).collect();
        assert!(parts[..5].contains(&0) && parts[..5].contains(&1), "mixed: {parts:?}");
        assert!(Split::of([0, 0], Arc::default()).is_none());
        assert!(Split::of([], Arc::default()).is_none());
    }

    #[test]
    fn a_canary_of_one_percent_gets_one_percent_of_100_000_requests() {
        let split = Split::of([99, 1], Arc::default()).unwrap();
        let canary = (0..100_000).filter(|_| split.part(split.draw()) == 1).count();
        assert_eq!(canary, 1000);
    }
}

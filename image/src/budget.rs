/// What one layer may cost before reading stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Uncompressed bytes, headers and padding included.
    pub bytes_max: u64,
    /// Entries. Each costs about 200 bytes of memory while layers are merged.
    pub entries_max: u64,
    /// Uncompressed bytes for each compressed one, once [`Budget::ratio_free_bytes`] came out.
    pub ratio_max: u64,
    /// How much may come out before the ratio counts: small layers of zeros are honest.
    pub ratio_free_bytes: u64,
    /// Binary logarithm of the largest zstd window, which is memory to hold.
    pub zstd_window_log_max: u32,
}

impl Default for Budget {
    /// 8 GiB (the largest layers in use are images of machine-learning frameworks, about 4 GiB), a
    /// million entries (a full Debian has 0.4 million), 200:1 (text gives 10:1; a bomb needs
    /// 1000:1), windows below 128 MiB.
    fn default() -> Self {
        Self {
            bytes_max: 8 << 30,
            entries_max: 1_000_000,
            ratio_max: 200,
            ratio_free_bytes: 1 << 20,
            zstd_window_log_max: 26,
        }
    }
}

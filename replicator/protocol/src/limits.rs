//! The bounds of everything that has a length. A peer that exceeds one is refused before anything is allocated for it.

/// Most pages in one [`Chunk`](crate::Chunk): 256 KiB of content.
pub const CHUNK_PAGES: u64 = 64;
/// Most bytes of saved state in one checkpoint.
pub const STATE_BYTES: usize = 16 << 20;
/// Most bytes of saved state in one frame.
pub(crate) const STATE_FRAME_BYTES: usize = 256 << 10;
/// Most keys in an [`Identity`](crate::Identity).
pub(crate) const IDENTITY_KEYS: usize = 256;
/// Most bytes in a key or a value of an identity.
pub(crate) const VALUE_BYTES: usize = 256;
/// Most bytes in a node name.
pub(crate) const NAME_BYTES: usize = 64;
/// Most bytes in a reason; longer ones are cut.
pub(crate) const REASON_BYTES: usize = 1024;
/// Most pages that a resync sends as one staged checkpoint (16 MiB); above that it copies while the guest runs.
pub const STAGED_RESYNC_PAGES: u64 = 4096;
/// Most rounds of copying while the guest runs. After the last one the rest goes with the checkpoint, whatever its size.
pub const PRECOPY_ROUNDS: u32 = 8;

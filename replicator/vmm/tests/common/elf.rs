//! Kernels made by hand.

/// The code's address in every guest.
pub(crate) const ENTRY: u64 = 0x10_0000;

/// An ELF file with a PVH note, and these pieces of code or data at these addresses.
pub(crate) fn elf(pieces: &[(u64, &[u8])]) -> Vec<u8> {
    const EHDR: usize = 64;
    const PHDR: usize = 56;
    let mut note = Vec::new();
    for word in [4u32, 4, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend((ENTRY as u32).to_le_bytes());
    let headers = pieces.len() + 1;
    let mut offset = EHDR + headers * PHDR;
    let mut file = Vec::new();
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend(ENTRY.to_le_bytes());
    file.extend((EHDR as u64).to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend(0u32.to_le_bytes());
    for half in [EHDR as u16, PHDR as u16, headers as u16, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut content = Vec::new();
    let notes = [(4u32, 0u64, &note[..])];
    for (kind, address, bytes) in notes.into_iter().chain(pieces.iter().map(|(address, bytes)| (1, *address, *bytes))) {
        file.extend(kind.to_le_bytes());
        file.extend(7u32.to_le_bytes());
        for word in [offset as u64, address, address, bytes.len() as u64, bytes.len() as u64, 4] {
            file.extend(word.to_le_bytes());
        }
        content.extend_from_slice(bytes);
        offset += bytes.len();
    }
    file.extend(content);
    file
}

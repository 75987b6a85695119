// Ring 0, all of it: a way from the PVH entry to ring 3, the tables the processor wants, a gate, interrupt handlers.
//
// It is small because on a KVM without hardware support ring 0 is emulated, at about a microsecond per instruction.
// Tables are laid out by the assembler, so that nothing here fills them. All Rust runs in ring 3 with interrupts off;
// they are taken only inside the gate's `hlt`, so no wake-up is lost and no register has to be saved for them.
// Addresses are constants because descriptors want them in pieces that no relocation can express.

.set BASE, 0x201000              // ledger.ld puts .ring0 here
.set GDT, BASE + 0x6000
.set TSS, BASE + 0x6100
.set IDT, BASE + 0x6400
.set STUBS, BASE + 0x7000        // 16 bytes for each vector
.set STACK_TOP, BASE + 0xa000
.set VECTORS, 64

// Selectors as Linux has them, since that is what every hypervisor knows best.
.set KERNEL_CS, 0x10
.set KERNEL_DS, 0x18
.set USER_DS, 0x2b
.set USER_CS, 0x33
.set TSS_SELECTOR, 0x40

// Xen's ELF note XEN_ELFNOTE_PHYS32_ENTRY: where a PVH loader enters.
.section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad pvh_start

.section .ring0, "awx", @progbits
// Identity map of 4 GiB in pages of 2 MiB, accessed and dirty bits already set. The page of ring 0 is the supervisor's,
// the rest is for all rings; the last GiB, where devices are, is uncached.
    .quad BASE + 0x1000 + 0x27
    .fill 511, 8, 0
    .quad BASE + 0x2000 + 0x27, BASE + 0x3000 + 0x27, BASE + 0x4000 + 0x27, BASE + 0x5000 + 0x27
    .fill 508, 8, 0
    .quad 0xe7
    .quad 0x200000 + 0xe3
    .set frame, 0x400000
    .rept 1534
    .quad frame + 0xe7
    .set frame, frame + 0x200000
    .endr
    .rept 512
    .quad frame + 0xff
    .set frame, frame + 0x200000
    .endr

    .org 0x6000
    .quad 0, 0
    .quad 0x00af9b000000ffff, 0x00cf93000000ffff  // KERNEL_CS, KERNEL_DS
    .quad 0
    .quad 0x00cff3000000ffff, 0x00affb000000ffff  // USER_DS, USER_CS
    .quad 0
    .quad 0x0000890000000000 + (TSS << 16) + (104 + 128), 0

    .org 0x6100
    .long 0
    .quad STACK_TOP
    .fill 90, 1, 0
    .short 104                   // the I/O bitmap follows: ports 0..0x400 are ring 3's
    .fill 128, 1, 0
    .byte 0xff

    .org 0x6400
    .set vector, 0
    .rept VECTORS
    .set handler, STUBS + 16 * vector
    .short handler & 0xffff, KERNEL_CS
    .byte 0
    .if vector == 4
    .byte 0xee                   // the gate: ring 3 may call it
    .else
    .byte 0x8e
    .endif
    .short handler >> 16
    .long 0, 0
    .set vector, vector + 1
    .endr

    .org 0x7000
    .set vector, 0
    .rept 32
    .balign 16
    .if vector == 4
    jmp gate
    .else
    .if (vector != 8) && (vector != 10) && (vector != 11) && (vector != 12) && (vector != 13) && (vector != 14) && (vector != 17)
    push 0
    .endif
    push vector
    jmp exception
    .endif
    .set vector, vector + 1
    .endr
    .balign 16                   // 32: timer
    push rax
    jmp end_of_interrupt
    .balign 16                   // 33: network
    push rax
    mov rax, [INTERRUPT_ACK]
    jmp acknowledge
    .balign 16                   // 34: disk
    push rax
    mov rax, [INTERRUPT_ACK + 8]
    jmp acknowledge
    .balign 16                   // 35: keyboard
    push rax
    mov byte ptr [KEY_PENDING], 1
    jmp end_of_interrupt
    .rept 28                     // 36..63: not routed; 63 is the spurious one
    .balign 16
    iretq
    .endr

    .org 0x7400
// A virtio device keeps its line up until told, and would raise no new edge. Told before ring 3 looks at the used ring,
// nothing slips through.
acknowledge:
    mov dword ptr [rax], 3
end_of_interrupt:
    mov eax, 0xfee000b0
    mov dword ptr [rax], 0
    pop rax
    iretq

// int 4. rsi: 32-bit writes {address, value}, ended by address 0, done in order; edi: whether to sleep after them until
// an interrupt. Clobbers rax, rcx, rsi.
gate:
    mov rax, [rsi]
    test rax, rax
    jz 2f
    mov ecx, [rsi + 8]
    mov [rax], ecx
    add rsi, 16
    jmp gate
2:
    test edi, edi
    jz 3f
    sti
    hlt
    cli
3:
    iretq

// Whatever it was, ring 3 gets to report it and does not come back.
exception:
    pop rdi
    pop rsi
    mov rdx, [rsp]
    mov rcx, cr2
    lea rax, [rip + exception_in_ring_3]
    mov [rsp], rax
    mov qword ptr [rsp + 8], USER_CS
    lea rax, [rip + USER_STACK_TOP - 8]
    mov [rsp + 24], rax
    mov qword ptr [rsp + 32], USER_DS
    iretq

    .balign 8
gdtr:
    .short 0x50 - 1
    .long GDT
idtr:
    .short 16 * VECTORS - 1
    .quad IDT

// Entered in 32-bit protected mode without paging, EBX = start info.
    .code32
    .global pvh_start
pvh_start:
    mov eax, BASE
    mov cr3, eax
    mov eax, 0x620               // PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov ecx, 0xc0000080          // EFER
    mov eax, 0x100               // LME
    xor edx, edx
    wrmsr
    mov eax, 0x80010033          // PG, WP, NE, ET, MP, PE
    mov cr0, eax
    lgdt [gdtr]
    ljmp KERNEL_CS, offset start64
    .code64
start64:
    mov eax, KERNEL_DS
    mov ds, eax
    mov es, eax
    mov ss, eax
    lidt [rip + idtr]
    mov eax, TSS_SELECTOR
    ltr ax
    mov esp, STACK_TOP
    push USER_DS
    lea rax, [rip + USER_STACK_TOP - 8]
    push rax                     // as after a call: 8 below a multiple of 16
    push 2
    push USER_CS
    lea rax, [rip + main]
    push rax
    mov edi, ebx
    iretq

    .org 0x9000
    .fill 4096, 1, 0             // the stack of ring 0

.section .bss
    .balign 4096
    .skip 64 << 10               // the stack of ring 3
USER_STACK_TOP:

.text

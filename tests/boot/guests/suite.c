/*
 * A kernel in the manner of test suites for hypervisors: it boots through Multiboot, looks at the machine through fw_cfg,
 * uses both APICs and the test device under 4-MByte pages, prints a line for each test on COM1 and ends through port F4h.
 */
typedef unsigned int u32; typedef unsigned short u16; typedef unsigned char u8; typedef unsigned long long u64;

#define APIC(offset) (*(volatile u32 *)(0xFEE00000 + (offset)))
#define IOAPIC(offset) (*(volatile u32 *)(0xFEC00000 + (offset)))
enum { TPR = 0x80, EOI = 0xB0, SVR = 0xF0, ICR = 0x300, TIMER = 0x320, INITIAL = 0x380, DIVIDE = 0x3E0 };
enum { APIC_BASE = 0x1B, DEADLINE = 0x6E0, TSC = 0x10, EXTD = 1 << 10, EN = 1 << 11 };
enum { LEVEL = 0x78 };      /* the vector of a level-triggered line */

static inline void outb(u16 p, u8 v) { __asm__ volatile("outb %0,%1" :: "a"(v), "Nd"(p) : "memory"); }
static inline void outw(u16 p, u16 v) { __asm__ volatile("outw %0,%1" :: "a"(v), "Nd"(p)); }
static inline void outl(u16 p, u32 v) { __asm__ volatile("outl %0,%1" :: "a"(v), "Nd"(p)); }
static inline u8 inb(u16 p) { u8 v; __asm__ volatile("inb %1,%0" : "=a"(v) : "Nd"(p)); return v; }
static inline u32 inl(u16 p) { u32 v; __asm__ volatile("inl %1,%0" : "=a"(v) : "Nd"(p)); return v; }
static inline u64 rdmsr(u32 n) { u64 v; __asm__ volatile("rdmsr" : "=A"(v) : "c"(n)); return v; }
static inline void wrmsr(u32 n, u64 v) { __asm__ volatile("wrmsr" :: "A"(v), "c"(n) : "memory"); }
static inline u64 rdtsc(void) { u64 v; __asm__ volatile("rdtsc" : "=A"(v)); return v; }
static inline void nops(void) { __asm__ volatile("jmp 1f; 1: nop" ::: "memory"); }

static struct { u16 lo, sel; u8 zero, type; u16 hi; } idt[256];
static struct { u16 limit; u32 base; } __attribute__((packed)) idtr = { sizeof idt - 1, (u32)idt };
static u32 directory[1024] __attribute__((aligned(4096)));
static u32 failures;
volatile u32 count[256];
extern u32 stubs[];

static void put(const char *s) { for (; *s; s++) { while (!(inb(0x3FD) & 0x20)) ; outb(0x3F8, *s); } }
static void report(const char *name, int passed) { put(passed ? "PASS: " : "FAIL: "); put(name); put("\n"); failures += !passed; }

void interrupt(u32 vector) {
    count[vector]++;
    if (count[LEVEL] == 3) outb(0x2000 + 20, 0);    /* until then the level comes back at each end of interrupt */
    if (vector == 2) {                              /* of ten more NMIs one waits */
        for (int i = 0; count[2] == 1 && i < 10; i++) APIC(ICR) = 0x4400;
        return;
    }
    if (rdmsr(APIC_BASE) & EXTD) wrmsr(0x80B, 0); else APIC(EOI) = 0;
}

static u64 fw_cfg(u16 item, int bytes) {
    u64 value = 0;
    outw(0x510, item);
    for (int i = 0; i < bytes; i++) value |= (u64)inb(0x511) << 8 * i;
    return value;
}
static void redirect(int pin, u32 low) { IOAPIC(0) = 0x11 + 2 * pin; IOAPIC(0x10) = 0; IOAPIC(0) = 0x10 + 2 * pin; IOAPIC(0x10) = low; }
static void pulse(int line) { outb(0x2000 + line, 1); outb(0x2000 + line, 0); }
static u32 features(void) { u32 a = 1, b, c, d; __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d)); return d; }

static void page_all(void) {
    for (u32 i = 0; i < 1024; i++) directory[i] = i << 22 | 0x87;
    __asm__ volatile("mov %%cr4,%%eax; or $0x10,%%eax; mov %%eax,%%cr4; mov %0,%%cr3; mov %%cr0,%%eax;"
                     "or $0x80000000,%%eax; mov %%eax,%%cr0" :: "r"(directory) : "eax", "memory");
}

static void test_interrupts(void) {
    APIC(ICR) = 0x44041; nops();
    report("self IPI", count[0x41] == 1);
    redirect(14, 0x77); pulse(14); nops();
    report("edge through the I/O APIC", count[0x77] == 1);
    APIC(TPR) = 0x80; pulse(14); nops();
    report("task priority holds", count[0x77] == 1);
    APIC(TPR) = 0; nops();
    report("task priority lets go", count[0x77] == 2);
    redirect(20, 0x8000 | LEVEL); outb(0x2000 + 20, 1); nops();
    report("level through the I/O APIC", count[LEVEL] == 3);
}

static void test_nmi(void) {
    __asm__ volatile("cli"); APIC(ICR) = 0x4400; nops();
    report("NMI with interrupts off, and one more", count[2] == 2);
    __asm__ volatile("sti");
}

static void test_timer(void) {
    APIC(DIVIDE) = 0xB; APIC(TIMER) = 0xEE;
    u64 start = rdtsc(); APIC(INITIAL) = 0x10000; while (!count[0xEE]) ; u64 end = rdtsc();
    report("one-shot timer", count[0xEE] == 1 && end - start >= 0x10000);
    APIC(TIMER) = 0x200ED; APIC(INITIAL) = 10000000; while (count[0xED] < 5) ; APIC(INITIAL) = 0; nops();
    report("periodic timer", count[0xED] >= 5);
    APIC(TIMER) = 0x400EF; wrmsr(DEADLINE, rdmsr(TSC)); nops();
    report("TSC deadline", count[0xEF] == 1 && rdmsr(DEADLINE) == 0);
    wrmsr(DEADLINE, rdtsc() + 500000); while (count[0xEF] < 2) __asm__ volatile("hlt");
    report("TSC deadline, asleep", count[0xEF] == 2);
}

static void test_modes(void) {
    u64 base = rdmsr(APIC_BASE);
    wrmsr(APIC_BASE, base | EXTD); wrmsr(0x83F, 0x42); nops();
    report("x2APIC self IPI", count[0x42] == 1 && APIC(0x30) == ~0u);
    wrmsr(APIC_BASE, base & ~(u64)(EN | EXTD));
    report("disabled", !(features() & 1 << 9) && APIC(0x30) == ~0u);
    wrmsr(APIC_BASE, base);
    report("enabled again", (features() & 1 << 9) && (APIC(0x30) & 0xFF) == 0x14 && APIC(SVR) == 0xFF);
}

void main(u32 magic, u32 *info) {
    report("Multiboot", magic == 0x2BADB002 && info[2] == (fw_cfg(3, 8) >> 10) - 1024);
    report("fw_cfg", fw_cfg(0, 4) == 0x554D4551 && fw_cfg(5, 2) == 1);
    for (int i = 0; i < 256; i++) { idt[i].lo = stubs[i]; idt[i].sel = 8; idt[i].type = 0x8E; idt[i].hi = stubs[i] >> 16; }
    __asm__ volatile("lidt %0" :: "m"(idtr));
    page_all();
    outb(0x21, 0xFF); outb(0xA1, 0xFF);
    APIC(SVR) = 0x1FF;
    __asm__ volatile("sti");
    outl(0xE0, 0x12345678);
    report("echo", inl(0xE0) == 0x12345678 && inb(0xE1) == 0x56);
    *(volatile u32 *)0xFF000010 = 0xCAFE; outl(0xE4, 0xFF000000);
    report("memory of the test device", *(volatile u32 *)0xFF000010 == 0xCAFE);
    test_interrupts();
    test_nmi();
    test_timer();
    test_modes();
    outl(0xF4, failures);
    for (;;) __asm__ volatile("cli; hlt");
}

__asm__(
    ".section .mb,\"a\"\n .long 0x1BADB002, 0, -0x1BADB002\n"
    ".text\n .globl _start\n_start: mov $stack_top, %esp\n lgdt gdt_pointer\n ljmp $8, $1f\n"
    "1: mov $16, %cx\n mov %cx, %ds\n mov %cx, %es\n mov %cx, %ss\n push %ebx\n push %eax\n call main\n"
    "common: pusha\n push 32(%esp)\n call interrupt\n add $4, %esp\n popa\n add $4, %esp\n iret\n"
    ".altmacro\n .macro STUB n\n stub\\n: push $\\n\n jmp common\n .endm\n .macro NAME n\n .long stub\\n\n .endm\n"
    ".set i, 0\n .rept 256\n STUB %i\n .set i, i + 1\n .endr\n"
    ".data\n .align 8\n gdt: .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF\n"
    "gdt_pointer: .word 23\n .long gdt\n .globl stubs\n stubs:\n .set i, 0\n .rept 256\n NAME %i\n .set i, i + 1\n .endr\n"
    ".bss\n .align 16\n .space 16384\n stack_top:\n .text\n");

/*
 * A hobby kernel: what a first protected-mode system does, each step told on port E9h, the end on port F4h.
 *
 * Entered by a Multiboot loader: flat 32-bit segments, paging off, EAX the magic number, EBX the boot information.
 * It loads tables of its own, moves the PIC, takes timer interrupts asleep and at work, turns 32-bit paging on and maps
 * pages in its page-fault handler, enters ring 3, serves system calls there and refuses CLI with #GP.
 */
typedef unsigned int u32; typedef unsigned short u16; typedef unsigned char u8;
static inline void outb(u16 p, u8 v) { __asm__ volatile("outb %0,%1" :: "a"(v), "Nd"(p)); }
static inline u8 inb(u16 p) { u8 v; __asm__ volatile("inb %1,%0" : "=a"(v) : "Nd"(p)); return v; }
static void put(const char *s) { while (*s) outb(0xE9, *s++); }
static void hex(u32 v) { for (int i = 28; i >= 0; i -= 4) outb(0xE9, "0123456789abcdef"[v >> i & 15]); outb(0xE9, '\n'); }
struct frame { u32 edi, esi, ebp, esp0, ebx, edx, ecx, eax, vector, error, eip, cs, eflags, esp, ss; };
static struct { u16 limit0, base0; u8 base1, access, flags, base2; } gdt[6];
static struct { u16 lo, sel; u8 zero, type; u16 hi; } idt[256];
static struct { u16 limit; u32 base; } __attribute__((packed)) gdtr, idtr;
static u32 tss[26];
static u32 directory[1024] __attribute__((aligned(4096))), table[1024] __attribute__((aligned(4096)));
static volatile u32 ticks, faults, calls, fault_address;
static u8 stack3[4096], stack0[4096];
extern u32 stubs[];
void user(void); void load_segments(void); void to_user(u32 eip, u32 esp);
static void gate(int n, u32 at, u8 type) { idt[n].lo = at; idt[n].sel = 8; idt[n].type = type; idt[n].hi = at >> 16; }
static void segment(int n, u32 base, u32 limit, u8 access, u8 flags) {
    gdt[n].limit0 = limit; gdt[n].base0 = base; gdt[n].base1 = base >> 16; gdt[n].access = access;
    gdt[n].flags = flags | (limit >> 16 & 15); gdt[n].base2 = base >> 24;
}
void interrupt(struct frame *f) {
    if (f->vector == 32) { ticks++; outb(0x20, 0x20); }
    else if (f->vector == 14) {
        __asm__ volatile("mov %%cr2,%0" : "=r"(fault_address));
        faults++;
        table[fault_address >> 12 & 1023] = (fault_address & 0xFFFFF000) - 0x100000 + 7;   /* map it to the page 1 MiB below */
        __asm__ volatile("invlpg (%0)" :: "r"(fault_address));
    } else if (f->vector == 0x80) { calls++; if (f->eax == 2) { put("user done, calls "); hex(calls); put("cs "); hex(f->cs);
        put("fin\n"); outb(0xF4, 0x21); for (;;) __asm__ volatile("cli;hlt"); }
        f->eax = f->ebx * 2; }
    else if (f->vector == 13) { put("gp in ring 3, error "); hex(f->error); f->eip += 1; }
    else { put("exception "); hex(f->vector); for (;;) __asm__ volatile("cli;hlt"); }
}
void main(u32 magic, u32 *info) {
    put("magic "); hex(magic); put("upper "); hex(info[2] / 1024);
    segment(1, 0, 0xFFFFF, 0x9A, 0xC0); segment(2, 0, 0xFFFFF, 0x92, 0xC0);
    segment(3, 0, 0xFFFFF, 0xFA, 0xC0); segment(4, 0, 0xFFFFF, 0xF2, 0xC0);
    segment(5, (u32)tss, 103, 0x89, 0);
    tss[1] = (u32)stack0 + sizeof stack0; tss[2] = 0x10; tss[25] = 104 << 16;
    gdtr.limit = sizeof gdt - 1; gdtr.base = (u32)gdt; idtr.limit = sizeof idt - 1; idtr.base = (u32)idt;
    for (int i = 0; i < 256; i++) gate(i, stubs[i], i == 0x80 ? 0xEE : 0x8E);
    __asm__ volatile("lgdt %0; lidt %1" :: "m"(gdtr), "m"(idtr)); load_segments();
    __asm__ volatile("ltr %%ax" :: "a"(0x28));
    outb(0x20, 0x11); outb(0xA0, 0x11); outb(0x21, 32); outb(0xA1, 40); outb(0x21, 4); outb(0xA1, 2); outb(0x21, 1); outb(0xA1, 1);
    outb(0x21, 0xFE); outb(0xA1, 0xFF);
    outb(0x43, 0x34); outb(0x40, 11932 & 255); outb(0x40, 11932 >> 8);
    __asm__ volatile("sti"); while (ticks < 5) __asm__ volatile("hlt"); put("ticks\n");
    u32 spins = 0, until = ticks + 3; while (ticks < until) spins++; put(spins > 1000 ? "preempted\n" : "odd\n");
    for (int i = 0; i < 1024; i++) table[i] = i * 4096 + 7;
    for (int i = 0x300; i < 0x310; i++) table[i] = 0;
    directory[0] = (u32)table + 7;
    __asm__ volatile("mov %0,%%cr3; mov %%cr0,%%eax; or $0x80010000,%%eax; mov %%eax,%%cr0" :: "r"(directory) : "eax");
    put("paging\n");
    *(volatile u32 *)0x200123 = 0x12345678; put("alias "); hex(*(volatile u32 *)0x300123);
    *(volatile u32 *)0x301ffe = 0xCAFEBABE; put("faults "); hex(faults); put("at "); hex(fault_address); hex(*(volatile u32 *)0x201ffe);
    put("dirty "); hex(table[0x301] & 0x60);
    u32 sum = 0; for (u32 i = 0; i < 200000; i++) sum = sum * 31 + i; put("sum "); hex(sum);
    double d = 1; for (int i = 1; i < 20; i++) d = d * i / 3.0; put("fpu "); hex((u32)d);
    to_user((u32)user, (u32)stack3 + sizeof stack3);
}
__asm__(".text\nuser: mov $5,%ebx\n mov $1,%eax\n int $0x80\n cmp $10,%eax\n jne 1f\n cli\n pushf\n pop %ecx\n mov $1,%eax\n int $0x80\n1: mov $2,%eax\n int $0x80\n jmp .\n"
"load_segments: ljmp $8,$1f\n1: mov $0x10,%ax\n mov %ax,%ds\n mov %ax,%es\n mov %ax,%fs\n mov %ax,%gs\n mov %ax,%ss\n ret\n"
"to_user: mov 4(%esp),%ecx\n mov 8(%esp),%edx\n mov $0x23,%ax\n mov %ax,%ds\n mov %ax,%es\n push $0x23\n push %edx\n push $0x202\n push $0x1b\n push %ecx\n iret\n"
"common: pusha\n push %ds\n push %es\n mov $0x10,%ax\n mov %ax,%ds\n mov %ax,%es\n lea 8(%esp),%eax\n push %eax\n call interrupt\n add $4,%esp\n pop %es\n pop %ds\n popa\n add $8,%esp\n iret\n"
".altmacro\n.macro STUB n\n stub\\n:\n .if (\\n!=8)&&(\\n!=10)&&(\\n!=11)&&(\\n!=12)&&(\\n!=13)&&(\\n!=14)&&(\\n!=17)\n push $0\n .endif\n push $\\n\n jmp common\n.endm\n.macro REF n\n .long stub\\n\n.endm\n"
".set i,0\n.rept 256\n STUB %i\n .set i,i+1\n.endr\n.data\n.global stubs\nstubs:\n.set i,0\n.rept 256\n REF %i\n .set i,i+1\n.endr\n.text\n");
__asm__(".section .mb,\"a\"\n.align 4\n.long 0x1BADB002,3,-(0x1BADB002+3)\n.text\n.global _start\n_start: mov $boot_stack+8192,%esp\n push %ebx\n push %eax\n call main\n.bss\nboot_stack: .skip 8192\n.text\n");

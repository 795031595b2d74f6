/*
 * What a C program may expect of a 32-bit Linux machine: arithmetic units, signals with their addresses, tracing,
 * page protection, code that changes, copy on write. One line a check; the same lines on every machine.
 *
 * Static, for i386 with SSE2. Run as PID 1's child; needs /proc and a few megabytes.
 */

#define _GNU_SOURCE
#include <emmintrin.h>
#include <errno.h>
#include <fenv.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
#define EFLAGS_TF 0x100

static sigjmp_buf back;
static volatile siginfo_t seen;
static volatile uint32_t seen_eip, seen_error;

static void remember(int signal, siginfo_t *info, void *context)
{
	ucontext_t *user = context;

	(void)signal;
	seen.si_signo = info->si_signo;
	seen.si_code = info->si_code;
	seen.si_addr = info->si_addr;
	seen_eip = user->uc_mcontext.gregs[REG_EIP];
	seen_error = user->uc_mcontext.gregs[REG_ERR];
	siglongjmp(back, 1);
}

static void catch(int signal)
{
	struct sigaction action = {.sa_sigaction = remember, .sa_flags = SA_SIGINFO | SA_NODEFER};

	sigaction(signal, &action, NULL);
}

/* Run what faults; print the signal, its code, and where si_addr and EIP are, as seen from `base`. */
static void show(const char *name, const void *base, int with_address)
{
	printf("%s: signal %d code %d", name, seen.si_signo, seen.si_code);
	if (with_address)
		printf(" offset %d error %x", (int)((char *)seen.si_addr - (char *)base), seen_error);
	printf("\n");
}

#define FAULT(name, base, with_address, statement)      \
	do {                                            \
		seen.si_signo = 0;                      \
		if (!sigsetjmp(back, 1)) {              \
			statement;                      \
			printf("%s: no signal\n", name); \
		} else                                  \
			show(name, base, with_address); \
	} while (0)

static void check_x87(void)
{
	long double sum = 0;
	double root, sine, rest;
	uint16_t status, control = 0x0c7f, before;
	int32_t cut;

	for (int i = 1; i <= 1000; i++)
		sum += 1.0L / i;
	printf("x87 sum: %.17Lg\n", sum);
	__asm__("fldl2t; fldl2e; fsubrp; fsqrt; fstpl %0" : "=m"(root));
	__asm__("fldpi; fld1; fadd %%st(0); fdivrp; fsin; fstpl %0" : "=m"(sine));
	__asm__("fldpi; fldl2t; fprem; fstpl %0; fstp %%st(0)" : "=m"(rest));
	printf("x87 constants: %.15g %.15g %.15g\n", root, sine, rest);
	__asm__("fnstcw %0; fldcw %1; fldpi; fchs; fistpl %2; fldcw %0" : "+m"(before) : "m"(control), "m"(cut) : "memory");
	printf("x87 cut: %d\n", cut);
	__asm__("fninit; fld1; fldz; fdivrp; fnstsw %0; fstp %%st(0); fnclex" : "=a"(status));
	printf("x87 status after 1/0: %04x\n", status & 0xff);
	__asm__("fninit; fldz; fldz; fdivrp; fxam; fnstsw %0; fstp %%st(0); fnclex" : "=a"(status));
	printf("x87 class of 0/0: %04x\n", status & 0x4700);
}

static void check_sse2(void)
{
	__m128d a = _mm_set_pd(2.0, 3.0), b = _mm_sqrt_pd(_mm_mul_pd(a, a));
	__m128i x = _mm_set_epi32(1, -2, 0x7fffffff, 4), y = _mm_set_epi16(1, 2, 3, 4, 30000, 30000, -30000, -30000);
	double d[2];
	int32_t w[4];
	int16_t h[8];

	_mm_storeu_pd(d, b);
	printf("sse2 doubles: %g %g\n", d[0], d[1]);
	_mm_storeu_si128((__m128i *)w, _mm_add_epi32(x, _mm_set1_epi32(1)));
	printf("sse2 words: %d %d %d %d\n", w[0], w[1], w[2], w[3]);
	_mm_storeu_si128((__m128i *)h, _mm_adds_epi16(y, y));
	printf("sse2 saturation: %d %d %d %d\n", h[0], h[1], h[2], h[4]);
	_mm_storeu_si128((__m128i *)w, _mm_mul_epu32(x, x));
	printf("sse2 products: %08x%08x %08x%08x\n", w[1], w[0], w[3], w[2]);
	printf("sse2 signs: %x\n", _mm_movemask_epi8(_mm_cmpgt_epi32(x, _mm_setzero_si128())));
}

/* SSE exceptions and their flags are left out: QEMU's TCG, the yardstick, never raises them, and older ones set none. */
static void check_arithmetic_signals(void)
{
	volatile double one = 1, nothing = 0;

	catch(SIGFPE);
	FAULT("1/0", 0, 0, __asm__ volatile("idivl %1" : : "a"(1), "r"(0), "d"(0) : "cc"));
	FAULT("smallest/-1", 0, 0, __asm__ volatile("idivl %1" : : "a"(INT32_MIN), "r"(-1), "d"(-1) : "cc"));
	FAULT("aam 0", 0, 0, __asm__ volatile("aam $0" : : : "eax", "cc"));
	FAULT("x87 1/0 unmasked", 0, 0, {
		feenableexcept(FE_DIVBYZERO);
		__asm__ volatile("fldl %0; fdivl %1; fwait; fstp %%st(0)" : : "m"(one), "m"(nothing));
	});
	__asm__("fninit");
	signal(SIGFPE, SIG_DFL);
}

static void check_address_signals(void)
{
	char *area = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	volatile char *bytes = area;
	char value = 0;

	bytes[0] = 1;
	mprotect(area, PAGE, PROT_READ);
	munmap(area + PAGE, PAGE);
	catch(SIGSEGV);
	catch(SIGBUS);
	FAULT("read at 16", 0, 1, value = *(volatile char *)16);
	FAULT("write at 20", 0, 1, *(volatile char *)20 = 1);
	FAULT("write to read-only", area, 1, bytes[100] = 2);
	FAULT("read of a hole", area, 1, value += bytes[PAGE + 7]);
	FAULT("write of a hole", area, 1, bytes[PAGE + 8] = 1);
	FAULT("word across into a hole", area, 1, value += *(volatile uint32_t *)(area + PAGE - 2));
	FAULT("kernel memory", (void *)0xc0000000, 1, value += *(volatile char *)0xc0100000);
	FAULT("copy up to the hole", area, 1,
	      __asm__ volatile("cld; rep movsb" : : "S"(area), "D"(area + 2 * PAGE - 8), "c"(64) : "memory"));
	mprotect(area, PAGE, PROT_READ | PROT_WRITE);
	bytes[100] = 3;
	printf("after mprotect: %d %d\n", bytes[0], bytes[100]);
	printf("system call into a hole: %s\n", write(1, area + PAGE, 1) < 0 && errno == EFAULT ? "EFAULT" : "?");
	munmap(area, PAGE);
	munmap(area + 2 * PAGE, PAGE);
	(void)value;
}

static void check_instruction_signals(void)
{
	catch(SIGILL);
	catch(SIGSEGV);
	catch(SIGTRAP);
	FAULT("ud2", 0, 0, __asm__ volatile("ud2"));
	FAULT("cli", 0, 0, __asm__ volatile("cli"));
	FAULT("hlt", 0, 0, __asm__ volatile("hlt"));
	FAULT("in", 0, 0, __asm__ volatile("inb $0x80, %%al" : : : "eax"));
	FAULT("mov cr0", 0, 0, __asm__ volatile("movl %%cr0, %%eax" : : : "eax"));
	FAULT("bad selector", 0, 0, __asm__ volatile("movl %0, %%fs" : : "r"(0x1234) : "eax"));
	FAULT("int 13", 0, 0, __asm__ volatile("int $13"));
	FAULT("into", 0, 0, __asm__ volatile("movb $127, %%al; addb $1, %%al; into" : : : "eax", "cc"));
	FAULT("int3", 0, 0, __asm__ volatile("int3"));
	FAULT("single step", 0, 0,
	      __asm__ volatile("pushfl; orl %0, (%%esp); popfl; nop; nop" : : "i"(EFLAGS_TF) : "memory", "cc"));
	signal(SIGTRAP, SIG_DFL);
}

/* Trace a child over a loop of known length, instruction by instruction, and look at its registers. */
static void check_ptrace(void)
{
	int status, steps = 0, in_loop = 0;
	uint32_t ecx = 0;
	struct user_regs_struct registers;
	pid_t child;
	extern const char traced_loop[], traced_end[];

	fflush(stdout);
	child = fork();
	if (!child) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		__asm__ volatile("movl $50, %%ecx; traced_loop: addl %%ecx, %%eax; decl %%ecx; jnz traced_loop; traced_end:"
				 : : : "eax", "ecx", "cc");
		_exit(21);
	}
	waitpid(child, &status, 0);
	printf("ptrace stop: %d\n", WIFSTOPPED(status) ? WSTOPSIG(status) : -1);
	while (steps < 100000) {
		if (ptrace(PTRACE_SINGLESTEP, child, 0, 0) || waitpid(child, &status, 0) < 0 || !WIFSTOPPED(status))
			break;
		steps++;
		ptrace(PTRACE_GETREGS, child, 0, &registers);
		if (registers.eip == (long)traced_loop && !in_loop)
			ecx = registers.ecx;
		in_loop += registers.eip >= (long)traced_loop && registers.eip < (long)traced_end;
	}
	printf("ptrace steps in the loop: %d, first ecx %u\n", in_loop, ecx);
	printf("ptrace exit: %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}

/* Two execution breakpoints in the child's debug registers. */
static void check_debug_registers(void)
{
	int status;
	pid_t child;
	struct user_regs_struct registers;
	extern const char broken_first[], broken_second[];
	size_t debug = offsetof(struct user, u_debugreg);

	fflush(stdout);
	child = fork();
	if (!child) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		__asm__ volatile("broken_first: nop; nop; broken_second: nop");
		_exit(22);
	}
	waitpid(child, &status, 0);
	ptrace(PTRACE_POKEUSER, child, debug + 0 * sizeof(long), broken_first);
	ptrace(PTRACE_POKEUSER, child, debug + 3 * sizeof(long), broken_second);
	ptrace(PTRACE_POKEUSER, child, debug + 7 * sizeof(long), 1 << 6 | 1); /* L3 and L0, of execution */
	for (int stop = 0; stop < 2; stop++) {
		ptrace(PTRACE_CONT, child, 0, 0);
		waitpid(child, &status, 0);
		ptrace(PTRACE_GETREGS, child, 0, &registers);
		printf("breakpoint %d: signal %d, dr6 %lx, at the first %d, at the second %d\n", stop,
		       WIFSTOPPED(status) ? WSTOPSIG(status) : -1,
		       ptrace(PTRACE_PEEKUSER, child, debug + 6 * sizeof(long), 0) & 0xf,
		       registers.eip == (long)broken_first, registers.eip == (long)broken_second);
	}
	ptrace(PTRACE_CONT, child, 0, 0);
	waitpid(child, &status, 0);
	printf("breakpoints exit: %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}

static void check_code_that_changes(void)
{
	uint8_t *code = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *alias_a, *alias_b;
	int (*function)(void) = (int (*)(void))code, sum = 0, file = memfd_create("code", 0);

	memcpy(code, "\xb8\0\0\0\0\xc3", 6); /* mov eax, imm32; ret */
	for (int i = 0; i < 500; i++) {
		code[1] = i;
		code[2] = i >> 8;
		sum += function();
	}
	printf("rewritten function: %d\n", sum);

	/* The next instruction, changed by the one before it. */
	memcpy(code, "\xc6\x05\0\0\0\0\x2a\xb8\x01\0\0\0\xc3", 13); /* movb $42, imm; mov eax, 1; ret */
	*(uint32_t *)(code + 2) = (uint32_t)(code + 8);
	printf("changed just ahead: %d\n", function());

	ftruncate(file, PAGE);
	alias_a = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	alias_b = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
	memcpy(alias_a, "\xb8\x05\0\0\0\xc3", 6);
	sum = ((int (*)(void))alias_b)();
	alias_a[1] = 6;
	printf("through another mapping: %d %d\n", sum, ((int (*)(void))alias_b)());

	/* Another page in the same place, with no store to either. */
	memcpy(code, "\xb8\x07\0\0\0\xc3", 6);
	memcpy(code + PAGE, "\xb8\x08\0\0\0\xc3", 6);
	sum = function();
	mremap(code + PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, code);
	printf("another page in its place: %d %d\n", sum, function());
}

static void check_copy_on_write(void)
{
	int *numbers = malloc(64 * PAGE), status, sum = 0, *shared;
	pid_t child;

	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < 64 * PAGE / 4; i++)
		numbers[i] = i;
	fflush(stdout);
	child = fork();
	if (!child) {
		for (int i = 0; i < 64 * PAGE / 4; i++)
			numbers[i] = -numbers[i];
		for (int i = 0; i < 64 * PAGE / 4; i++)
			sum += numbers[i] & 3;
		shared[0] = sum;
		_exit(sum == 3 * 64 * PAGE / 8 ? 0 : 1);
	}
	numbers[0] = 5;
	waitpid(child, &status, 0);
	for (int i = 0; i < 64 * PAGE / 4; i++)
		sum += numbers[i] & 3;
	printf("copy on write: child %d, shared %d, parent %d, first %d\n", WEXITSTATUS(status), shared[0], sum, numbers[0]);
}

static volatile int alarms;

static void count(int signal)
{
	(void)signal;
	alarms++;
}

/* Interrupts in the middle of x87 and SSE work must not be seen by it, nor by another process that does the same. */
static void check_registers_across_switches(void)
{
	struct itimerval often = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
	int status;
	pid_t child;

	fflush(stdout);
	child = fork();
	signal(SIGALRM, count);
	setitimer(ITIMER_REAL, &often, NULL);
	double x = child ? 1.0 : 2.0;
	uint32_t mix = child ? 1 : 2;
	while (alarms < 20) {
		__asm__ volatile("fldl %0; fldl %0; faddp; fldl %0; fsubrp; fstpl %0" : "+m"(x));
		for (int j = 0; j < 1000; j++)
			mix = mix * 1664525 + 1013904223;
		for (int j = 0; j < 1000; j++)
			mix = (mix - 1013904223) * 4276115653u; /* the inverse */
	}
	setitimer(ITIMER_REAL, &never, NULL);
	if (!child)
		_exit(x == 2.0 && mix == 2 ? 0 : 1);
	waitpid(child, &status, 0);
	printf("across switches: %g %u, child %d\n", x, mix, WEXITSTATUS(status));
}

static void check_system_calls(void)
{
	pid_t child = fork();
	int status, by_interrupt;

	if (!child)
		_exit(getppid() == getpid());
	waitpid(child, &status, 0);
	__asm__ volatile("int $0x80" : "=a"(by_interrupt) : "0"(SYS_getpid) : "memory");
	printf("system calls: %d %d\n", by_interrupt == syscall(SYS_getpid), WEXITSTATUS(status));
}

static void check_alternate_stack(void)
{
	static char stack[8 * PAGE];
	stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
	struct sigaction action = {.sa_sigaction = remember, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
	volatile uint32_t kept;

	sigaltstack(&alternate, NULL);
	sigaction(SIGSEGV, &action, NULL);
	__asm__ volatile("movl %%esp, %0" : "=m"(kept));
	FAULT("no stack", 0, 0, __asm__ volatile("xorl %%esp, %%esp; pushl %%eax" : : : "memory"));
	signal(SIGSEGV, SIG_DFL);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("CHECKS-BEGIN\n");
	check_x87();
	check_sse2();
	check_arithmetic_signals();
	check_address_signals();
	check_instruction_signals();
	check_alternate_stack();
	check_ptrace();
	check_debug_registers();
	check_code_that_changes();
	check_copy_on_write();
	check_registers_across_switches();
	check_system_calls();
	printf("CHECKS-END\n");
	return 0;
}

/* Integer work of the kind that programs do: a linked list, a matrix, a scanner, a checksum over all of it.
 *
 * Every result goes into one checksum, which `run` returns; the same source compiled for the host must return the same.
 */
#include <stdint.h>

#define NODES 200
#define SIZE 12
#define TEXT 512

struct node {
    struct node *next;
    uint32_t key, value;
};

static struct node nodes[NODES];
static int32_t left[SIZE][SIZE], right[SIZE][SIZE], product[SIZE][SIZE];
static char text[TEXT];
static uint32_t seed;

static uint32_t draw(void)
{
    seed = seed * 1664525 + 1013904223;
    return seed >> 8;
}

static uint32_t mix(uint32_t sum, uint32_t word)
{
    for (int bit = 0; bit < 16; bit++) {
        uint32_t carry = (sum ^ word) & 1;
        sum >>= 1;
        word >>= 1;
        if (carry)
            sum ^= 0xEDB88320;
    }
    return sum ^ word;
}

/* Merge sort of a list by key, halves split by turns. */
static struct node *sorted(struct node *list)
{
    struct node *halves[2] = {0, 0}, *head, **end = &head;
    int side = 0;

    if (!list || !list->next)
        return list;
    while (list) {
        struct node *next = list->next;
        list->next = halves[side];
        halves[side] = list;
        side ^= 1;
        list = next;
    }
    halves[0] = sorted(halves[0]);
    halves[1] = sorted(halves[1]);
    while (halves[0] && halves[1]) {
        side = halves[1]->key < halves[0]->key;
        *end = halves[side];
        halves[side] = halves[side]->next;
        end = &(*end)->next;
    }
    *end = halves[0] ? halves[0] : halves[1];
    return head;
}

static uint32_t list_work(uint32_t sum)
{
    struct node *list = 0;

    for (int i = 0; i < NODES; i++) {
        nodes[i].key = draw() & 0xFFFF;
        nodes[i].value = (uint32_t)i;
        nodes[i].next = list;
        list = &nodes[i];
    }
    for (list = sorted(list); list; list = list->next)
        sum = mix(sum, list->key << 8 ^ list->value);
    return sum;
}

static uint32_t matrix_work(uint32_t sum)
{
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++) {
            left[i][j] = (int32_t)(draw() & 0x3FF) - 512;
            right[i][j] = (int32_t)(draw() & 0x3FF) - 512;
        }
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++) {
            int32_t dot = 0;
            for (int k = 0; k < SIZE; k++)
                dot += left[i][k] * right[k][j];
            product[i][j] = dot;
        }
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++)
            sum = mix(sum, (uint32_t)product[i][j]);
    return sum;
}

/* What a scanner finds in a text of numbers, words and blanks. */
static uint32_t scan_work(uint32_t sum)
{
    enum { BLANK, WORD, NUMBER, HEX } state = BLANK;
    uint32_t found[4] = {0, 0, 0, 0}, value = 0;

    for (int i = 0; i < TEXT; i++)
        text[i] = "0123456789xyz ab cd 12 "[draw() % 23];
    for (int i = 0; i < TEXT; i++) {
        char c = text[i];
        switch (state) {
        case BLANK:
            state = c == ' ' ? BLANK : c >= '0' && c <= '9' ? NUMBER : WORD;
            value = (uint32_t)c;
            break;
        case NUMBER:
            if (c == 'x')
                state = HEX;
            else if (c < '0' || c > '9')
                state = c == ' ' ? BLANK : WORD;
            value = value * 10 + (uint32_t)(c - '0');
            break;
        case HEX:
        case WORD:
            if (c == ' ')
                state = BLANK;
            value = value * 31 + (uint32_t)c;
            break;
        }
        found[state]++;
        sum += value;
    }
    for (int i = 0; i < 4; i++)
        sum = mix(sum, found[i]);
    return sum;
}

__attribute__((section(".entry"))) uint32_t run(void)
{
    uint32_t sum = 0xFFFFFFFF;

    seed = 2006;
    sum = list_work(sum);
    sum = matrix_work(sum);
    return scan_work(sum);
}

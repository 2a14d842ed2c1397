#include "base/factor_list.h"
#include "harness.h"

static void sigma_min_lists(dd_test *t) {
    double v[DD_FACTOR_LIST_SIZE] = {9, 9, 9};
    DD_OK(t, dd_sigma_min_parse(v, "2:0.3,4:0.9", &t->err));
    DD_CHECK(t, v[0] == 0 && v[1] == 0.3 && v[2] == 0.9);
    DD_OK(t, dd_sigma_min_parse(v, " 4 : .5 ", &t->err));
    DD_CHECK(t, v[1] == 0 && v[2] == 0.5);
    DD_OK(t, dd_sigma_min_parse(v, "none", &t->err));
    DD_CHECK(t, v[1] == 0 && v[2] == 0);
    DD_OK(t, dd_sigma_min_parse(v, "2:1,4:0", &t->err));
    DD_CHECK(t, v[1] == 1 && v[2] == 0);
    static const struct {
        const char *text, *complaint;
    } bad[] = {
        {"", "character 1: found the end, expected a factor"},
        {"1:0.3", "character 1: found '1', expected a factor"},
        {"2=0.3", "character 2: found '=', expected ':'"},
        {"2:", "character 3: found the end, expected a sigma"},
        {"2:1.5", "character 3: found '1', expected a sigma"},
        {"2:-0.5", "character 3: found '-'"},
        {"2:0.3,", "character 7: found the end"},
        {"2:0.3,2:0.4", "character 7: found '2', expected each factor once"},
        {"2:0.3 4:0.9", "character 7: found '4', expected ','"},
        {"none2", "character 5: found '2', expected the end"},
        {"2:nan", "character 3: found 'n'"},
        {"2:1e-3", "character 4: found 'e'"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        DD_FAILS(t, dd_sigma_min_parse(v, bad[i].text, &t->err), DDIT_ERR_ARGUMENT, bad[i].complaint);
    DD_CHECK(t, v[1] == 1 && v[2] == 0); /* unchanged by the failures */
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {{"sigma_min_lists", sigma_min_lists}};
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}

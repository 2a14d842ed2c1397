#include "schedule/free_step.h"

dd_free_step dd_free_step_at(float sigma, int factor, double detail) {
    double s = sigma, signal = 1 - s;
    double scale = signal + s / factor;
    double small = s / factor / scale;
    double power = detail * detail;
    double gain = power > 0 ? signal * power / (signal * signal * power + s * s) : 0;
    return (dd_free_step){.scale = (float)scale, .sigma = (float)small, .time = 1000.0f * (float)small, .gain = (float)gain};
}

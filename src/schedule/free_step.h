/* The scalars of the training-free coarse step: the base model runs on the latent pooled by k, at the noise level that pooling
 * really leaves. Our own method, not the paper's.
 *
 * With z = (1 - s) x0 + s e and mean pooling over k x k latent pixels (which divides the deviation of white noise by k):
 *     a = (1 - s) + s / k;   z' = pool_k(z) / a;   s' = (s / k) / a;   v' = base(z', time 1000 s')
 *     x0' = z' - s' v';      x0 = upsample_k(x0') + g z_hf;            v = (z - x0) / s
 * g is the Wiener gain for detail of standard deviation h: (1 - s) h^2 / ((1 - s)^2 h^2 + s^2).
 */
#ifndef DD_SCHEDULE_FREE_STEP_H
#define DD_SCHEDULE_FREE_STEP_H

typedef struct dd_free_step {
    float scale; /* a: what the pooled latent is divided by */
    float sigma; /* s': noise level of the pooled latent */
    float time;  /* 1000 s', the model's time */
    float gain;  /* g: share of z_hf kept as detail of x0 */
} dd_free_step;

/* sigma in (0, 1], factor 2 or 4 (1 gives the identity: scale 1, sigma unchanged), detail = h >= 0 (0: no detail, gain 0). */
dd_free_step dd_free_step_at(float sigma, int factor, double detail);

#endif

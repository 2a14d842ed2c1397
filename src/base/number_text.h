/* Numbers as text that a program reads again. */
#ifndef DD_BASE_NUMBER_TEXT_H
#define DD_BASE_NUMBER_TEXT_H

enum { DD_NUMBER_SIZE = 40 };

/* x with 9 significant digits, as %.9g writes it, and a point whatever the locale; enough for any float. Returns the length. */
int dd_number_text(char text[DD_NUMBER_SIZE], double x);

#endif

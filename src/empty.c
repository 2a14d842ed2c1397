/* Keeps a room without sources buildable. */
typedef int dd_empty_room;

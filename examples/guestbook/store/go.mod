module guestbook/store

go 1.26

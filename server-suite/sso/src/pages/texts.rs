//! The words of the pages.

macro_rules! texts {
    ($($name:ident: $ru:literal, $en:literal;)*) => {
        /// Every text in one language.
        pub(crate) struct Texts {
            $(pub(crate) $name: &'static str,)*
        }

        pub(super) static RU: Texts = Texts { $($name: $ru,)* };
        pub(super) static EN: Texts = Texts { $($name: $en,)* };
    };
}

texts! {
    sign_in: "Вход", "Sign in";
    enter: "Войти", "Sign in";
    to_continue: "чтобы продолжить в приложении", "to continue to";
    login: "Номер или логин", "Number or login";
    password: "Пароль", "Password";
    wrong_password: "Неверный логин или пароль.", "The login or the password is wrong.";
    locked: "Слишком много попыток. Повторите через", "Too many attempts. Try again in";
    minutes: "мин.", "min.";
    unavailable: "Сейчас проверить пароль нельзя: сервер, который его знает, не отвечает. Повторите через минуту.", "The password cannot be checked now: the server that knows it does not answer. Try again in a minute.";
    not_subscriber: "Пароль верен, но такого абонента на станции нет. Обратитесь к администратору.", "The password is right, but the switch has no such subscriber. Please ask your administrator.";
    page_over: "Страница устарела. Войдите ещё раз.", "This page is too old. Please sign in again.";
    code_title: "Подтверждение входа", "Confirm that it is you";
    code_text: "Введите код из приложения-аутентификатора.", "Enter the code that your authenticator app shows.";
    code: "Код", "Code";
    wrong_code: "Код неверен или уже использован.", "The code is wrong or was used before.";
    enrol_title: "Второй фактор", "Second factor";
    enrol_text: "Отсканируйте изображение приложением-аутентификатором и введите код, который оно покажет.", "Scan the image with an authenticator app, then enter the code that it shows.";
    enrol_secret: "Или введите ключ вручную:", "Or enter the key by hand:";
    continue_: "Продолжить", "Continue";
    device_title: "Подключить устройство", "Connect a device";
    device_text: "Введите код, который показывает устройство.", "Enter the code that the device shows.";
    wrong_device: "Такого кода нет, или его время вышло.", "There is no such code, or its time is over.";
    device_question: "Разрешить вход на устройстве?", "Let this device sign in as you?";
    device_compare: "Разрешайте, только если этот код показывает ваше устройство:", "Allow it only if it is your own device that shows this code:";
    allow: "Разрешить", "Allow";
    deny: "Отклонить", "Deny";
    device_done: "Устройство подключено", "The device is connected";
    device_done_text: "Вернитесь к устройству: вход произойдёт через несколько секунд.", "Go back to it: it will be signed in within seconds.";
    device_denied: "Устройство отклонено", "The device was refused";
    device_denied_text: "На нём никто не вошёл.", "Nobody is signed in on it.";
    sign_out: "Выйти", "Sign out";
    sign_out_question: "Выйти из учётной записи?", "Do you want to sign out?";
    signed_out: "Вы вышли", "You are signed out";
    signed_out_text: "Приложения в этом браузере больше не могут действовать от вашего имени.", "Programs in this browser can no longer act for you.";
    account: "Учётная запись", "Account";
    sessions: "Где выполнен вход", "Where you are signed in";
    this_session: "этот браузер", "this browser";
    since: "вход", "signed in";
    last_used: "последнее использование", "last used";
    end_session: "Завершить", "End";
    app: "Приложение-аутентификатор", "Authenticator app";
    app_is_on: "Включено: при входе нужен код.", "On: signing in takes a code.";
    app_is_off: "Выключено.", "Off.";
    app_add: "Включить", "Turn on";
    app_remove: "Выключить", "Turn off";
    error: "Войти не удалось", "You cannot sign in";
    trouble: "Сейчас не получается", "This does not work at the moment";
    trouble_text: "Попробуйте ещё раз через минуту.", "Please try again in a minute.";
    unknown_realm: "Такого домена здесь нет", "There is no such domain here";
    error_text: "Приложение отправило неверный запрос. Сообщите его разработчикам.", "The program sent a request that is wrong. Please tell those who make it.";
}
